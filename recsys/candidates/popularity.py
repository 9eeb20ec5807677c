"""How often items were watched lately, as of any moment: what a net of yesterday cannot know.

The score of an item gets sum_k weight_k(user, context) log(1 + watches in the last m_k minutes),
added to the inner product of the vectors; the weights are outputs of the user tower, so that the
sum is an inner product again. Counts are those known at the last refresh before the moment: with
`refresh_minutes` as long as bundles are served, training sees them as stale as serving does.
"""

import math

import numpy as np

from recsys.errors import ConfigError

MICROSECONDS_PER_MINUTE = 60_000_000
MAX_CELLS = 1_000_000_000
"""Of the table of running counts: 4 bytes each."""


class RecentPopularity:
    """Counts of watches in windows that end at the last refresh.

    Args:
        items: int32 [W], rows of the watched items; others than 0 to N - 1 are left out.
        moments: int64 [W], microseconds, when each watch was known.
        num_items: N.
        minutes: Lengths of the K windows.
        refresh_minutes: The counts change at multiples of this since the epoch (UTC).

    Raises:
        ConfigError: The table of counts would be too big.
    """

    def __init__(
        self,
        items: np.ndarray,
        moments: np.ndarray,
        *,
        num_items: int,
        minutes: tuple[int, ...],
        refresh_minutes: int,
    ) -> None:
        kept = (items >= 0) & (items < num_items)
        items, moments = items[kept], moments[kept]
        step = math.gcd(refresh_minutes, *minutes)
        self._step = step * MICROSECONDS_PER_MINUTE
        self._refresh = refresh_minutes // step
        self._windows = [each // step for each in minutes]
        # The origin is a multiple of the refresh, so that midnight stays midnight.
        first = int(moments.min(initial=np.iinfo(np.int64).max)) if len(moments) else 0
        self._origin = first // (self._step * self._refresh) * self._refresh
        column = moments // self._step - self._origin
        num_columns = int(column.max(initial=0)) + 1
        if num_items * (num_columns + 1) > MAX_CELLS:
            raise ConfigError(
                f"candidates.popularity_minutes: counting {num_items:,} items over {num_columns:,} "
                f"steps needs more than {MAX_CELLS:,} cells; take windows and a refresh of a "
                f"longer common divisor, lower data.max_items, or a shorter log"
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
