"""Item and channel counters while serving: a bundle's, plus what happened since."""

import threading

import numpy as np

from recsys.data.examples import ITEM_COUNTERS


class LiveCounters:
    """Counts by catalogue row and by channel, safe to read while another thread adds.

    Args:
        item_counters: int64 [N, 5] as of the bundle's data_until; copied.
        channel: int32 [N], channel number of each item, -1 none.
        num_channels: Number of channels.
    """

    def __init__(self, item_counters: np.ndarray, channel: np.ndarray, num_channels: int) -> None:
        width = len(ITEM_COUNTERS)
        # One row more, always zero, answers for row or channel -1.
        self._items = np.concatenate([item_counters, np.zeros((1, width), np.int64)])
        self._channel = np.append(channel, np.int32(-1))
        # Items without a channel are added up in a row before the others. Sums of float64 are exact
        # below 2 ** 53, and ten times as fast as adding row by row.
        sums = [
            np.bincount(channel + 1, column, minlength=num_channels + 1)
            for column in item_counters.T
        ]
        self._channels = np.zeros((num_channels + 1, width), np.int64)
        self._channels[:-1] = np.stack(sums, axis=1)[1:]
        self._lock = threading.Lock()

    def of_items(self, rows: np.ndarray) -> np.ndarray:
        """Return the counters of items: int [...] -> int64 [..., 5], zeros for row -1."""
        return self._items[rows]

    def of_channels(self, rows: np.ndarray) -> np.ndarray:
        """Return the counters of the items' channels: int [...] -> int64 [..., 5]."""
        return self._channels[self._channel[rows]]

    def add(self, rows: np.ndarray, deltas: np.ndarray) -> None:
        """Add to the counters; rows of -1 are ignored.

        Args:
            rows: int [n], catalogue rows, repeats allowed.
            deltas: int64 [n, 5].
        """
        known = rows >= 0
        rows, deltas = rows[known], deltas[known]
        channels = self._channel[rows]
        owned = channels >= 0
        with self._lock:
            np.add.at(self._items, rows, deltas)
            np.add.at(self._channels, channels[owned], deltas[owned])

    def take_over(self, other: "LiveCounters") -> None:
        """Count from now on as another of the same catalogue, which is not to be used again."""
        with self._lock:
            self._items, self._channels = other._items, other._channels
