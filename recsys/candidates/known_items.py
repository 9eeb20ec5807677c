"""Which items a served bundle could have returned at a moment: those watched before it was built.

A net is trained on a log in which every item has its row, also in the first minutes of its life. A
bundle built at midnight has none for what appears in the morning. Where items are young (news), a
net that learns the weights of counts from both kinds believes that few watches in the last days are
a good sign. An example whose item was too young therefore teaches the vectors alone, and the others
choose among the items that were there.
"""

import numpy as np

from recsys.candidates.popularity import MICROSECONDS_PER_MINUTE
from recsys.data.timelines import WatchHistories

NEVER = np.iinfo(np.int64).max


class KnownItems:
    """Tells which items were watched before the last refresh of the catalogue.

    Args:
        histories: Watches of all users.
        num_items: N, trained items.
        refresh_minutes: Catalogues are built at multiples of this since the epoch (UTC).
    """

    def __init__(self, histories: WatchHistories, *, num_items: int, refresh_minutes: int) -> None:
        self._first_watch = np.full(num_items, NEVER)
        np.minimum.at(self._first_watch, histories.code - 1, histories.moment)
        self._refresh_us = refresh_minutes * MICROSECONDS_PER_MINUTE

    def are_known(self, items: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Tell of items whether the catalogue of moments has them.

        Args:
            items: int [...], rows from 0 to N - 1.
            moments: int64 [...], of the requests.

        Returns:
            bool [...].
        """
        return self._first_watch[items] < moments // self._refresh_us * self._refresh_us
