"""What came of a simulated arm: by user and day, and by item.

Letters: U users, D days, N items.
"""

import numpy as np

from recsys.data.sources.world import DAY_US
from recsys.simulation.arrivals import Arrivals
from recsys.simulation.site import Day


class Ledger:
    """Sums of one arm, filled day by day.

    Args:
        arrivals: Who comes when.
        num_users: U; users are numbered below it.
        num_items: N.

    Attributes:
        expected_seconds: float64 [U, D], of watching recommendations, as the truth expects of what
            was shown.
        watched_seconds: float64 [U, D], as drawn.
        num_pages: int64 [D].
        item_watches: int64 [D, N], clicked recommendations.
        num_degraded: int64 [D], answers without a stage.
    """

    def __init__(self, arrivals: Arrivals, num_users: int, num_items: int) -> None:
        self._user = arrivals.user
        num_days = arrivals.span.num_days
        self.expected_seconds = np.zeros((num_users, num_days))
        self.watched_seconds = np.zeros((num_users, num_days))
        self.num_pages = np.zeros(num_days, np.int64)
        self.item_watches = np.zeros((num_days, num_items), np.int64)
        self.num_degraded = np.zeros(num_days, np.int64)

    def note(self, number: int, day: Day) -> None:
        """Take a day.

        Args:
            number: Of the day.
            day: What happened.
        """
        users, size = self._user[day.rows], len(self.expected_seconds)
        expected = day.expected_ms.sum(axis=1) / 1000
        watched = day.pages.watch_ms.sum(axis=1) / 1000
        self.expected_seconds[:, number] = np.bincount(users, expected, size)
        self.watched_seconds[:, number] = np.bincount(users, watched, size)
        self.num_pages[number] = len(day.rows)
        clicked = day.pages.items[day.pages.clicked]
        self.item_watches[number] = np.bincount(clicked, minlength=self.item_watches.shape[1])
        self.num_degraded[number] = day.num_degraded

    def watched_share(self, is_there: np.ndarray) -> np.ndarray:
        """Return the share of items that anybody has watched by the end of each day: float64 [D].

        Args:
            is_there: bool [D, N], whether an item can be shown by then.
        """
        watched = (self.item_watches.cumsum(axis=0) > 0) & is_there
        return watched.sum(axis=1) / is_there.sum(axis=1)

    def concentration(self, is_there: np.ndarray) -> np.ndarray:
        """Return the Gini coefficient of the watches so far over items: float64 [D].

        Args:
            is_there: bool [D, N], whether an item can be shown by then.
        """
        so_far = self.item_watches.cumsum(axis=0)
        pairs = zip(so_far, is_there, strict=True)
        return np.array([gini(counts[there]) for counts, there in pairs])


def gini(counts: np.ndarray) -> float:
    """Return how unequal counts are: 0 all alike, near 1 one has everything; NaN of nothing.

    With x_1 <= ... <= x_n: sum over i of (2 i - n - 1) x_i / (n sum x), half the mean difference
    of two of them over their mean.

    Args:
        counts: float [n], 0 and up.
    """
    number, total = len(counts), counts.sum()
    if total == 0:
        return float("nan")
    ranks = 2 * np.arange(1, number + 1) - number - 1
    return float(ranks @ np.sort(counts) / (number * total))


def available_by_day(item_upload_us: np.ndarray, start_us: int, num_days: int) -> np.ndarray:
    """Return whether items are uploaded by the end of each day: int64 [N] -> bool [D, N]."""
    ends = start_us + DAY_US * np.arange(1, num_days + 1)
    return item_upload_us[None] <= ends[:, None]
