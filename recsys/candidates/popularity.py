"""How often items were watched lately, as of any moment: what a net of yesterday cannot know.

The score of an item gets sum_k weight_k(user, context) log(1 + watches in the last h_k hours),
added to the inner product of the vectors; the weights are outputs of the user tower, so that the
sum is an inner product again. Counts are those known at the last refresh before the moment: with
`refresh_hours` as long as bundles are served, training sees them as stale as serving does.
"""

import numpy as np

from recsys.errors import ConfigError

MICROSECONDS_PER_HOUR = 3_600_000_000
MAX_CELLS = 1_000_000_000
"""Of the table of running counts: 4 bytes each."""


class RecentPopularity:
    """Counts of watches in windows that end at the last refresh.

    Args:
        items: int32 [W], rows of the watched items; others than 0 to N - 1 are left out.
        moments: int64 [W], microseconds, when each watch was known.
        num_items: N.
        hours: Lengths of the K windows.
        refresh_hours: The counts change at multiples of this since the epoch (UTC).

    Raises:
        ConfigError: The table of counts would be too big.
    """

    def __init__(
        self,
        items: np.ndarray,
        moments: np.ndarray,
        *,
        num_items: int,
        hours: tuple[float, ...],
        refresh_hours: float,
    ) -> None:
        kept = (items >= 0) & (items < num_items)
        items, moments = items[kept], moments[kept]
        step = min(*hours, refresh_hours) * MICROSECONDS_PER_HOUR
        self._step = round(step)
        self._refresh = max(1, round(refresh_hours * MICROSECONDS_PER_HOUR / step))
        self._windows = [max(1, round(each * MICROSECONDS_PER_HOUR / step)) for each in hours]
        # The origin is a multiple of the refresh, so that midnight stays midnight.
        first = int(moments.min(initial=np.iinfo(np.int64).max)) if len(moments) else 0
        self._origin = first // (self._step * self._refresh) * self._refresh
        column = moments // self._step - self._origin
        num_columns = int(column.max(initial=0)) + 1
        if num_items * (num_columns + 1) > MAX_CELLS:
            raise ConfigError(
                f"candidates.popularity_hours: counting {num_items:,} items over {num_columns:,} "
                f"steps needs more than {MAX_CELLS:,} cells; take longer windows and a longer "
                f"popularity_refresh_hours, lower data.max_items, or a shorter log"
            )
        self._counts = np.zeros((num_items, num_columns + 1), np.int32)
        np.add.at(self._counts, (items, column + 1), 1)
        np.cumsum(self._counts, axis=1, out=self._counts)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self._counts)

    def steps(self, moments: np.ndarray) -> np.ndarray:
        """Return the column of the last refresh at or before each moment: int64 [...]."""
        column = moments // self._step - self._origin
        column = column // self._refresh * self._refresh
        return np.clip(column, 0, self._counts.shape[1] - 1)

    def log_counts(self, items: np.ndarray, steps: np.ndarray | np.int64) -> np.ndarray:
        """Return log(1 + watches) of items at steps that broadcast together.

        Args:
            items: int [...].
            steps: int64 [...], from `steps`.

        Returns:
            float32 [..., K].
        """
        until = self._counts[items, steps]
        windows = [
            until - self._counts[items, np.maximum(steps - window, 0)] for window in self._windows
        ]
        return np.log1p(np.stack(windows, axis=-1, dtype=np.float32))
