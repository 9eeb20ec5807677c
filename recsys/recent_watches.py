"""What all users watch lately, as of the last event that the server received.

A watch at moment t weighs 2^((t - landmark) / half-life). So no weight changes as time goes by, and
nothing is counted anew: at any later moment all are decayed by the same factor, which leaves their
order as it is.

References:
    Cormode, Shkapenyuk, Srivastava & Xu 2009, Forward Decay.
"""

import threading

import numpy as np

MICROSECONDS_PER_HOUR = 3_600_000_000
MAX_EXPONENT = 512.0
"""Half-lives from the landmark at which it is moved, far from where a float64 ends."""
SMALLEST = 1e-12
"""Below lies what is left of watches that were taken back, and what is long forgotten."""
POOL_SIZE = 1024
"""Of the best, those that are looked at; more would only be for who has seen all of these."""


class RecentWatches:
    """Weights of items by their watches, safe to read while another thread adds.

    Args:
        weights: float64 [N], as of the landmark; copied.
        landmark: Microseconds since the epoch.
        half_life_hours: After which a watch weighs half.
    """

    def __init__(self, weights: np.ndarray, landmark: int, half_life_hours: float) -> None:
        self._weights = np.array(weights, np.float64)
        self._landmark = float(landmark)
        self._half_life = half_life_hours * MICROSECONDS_PER_HOUR
        self._lock = threading.Lock()
        # What nobody watches keeps its order, so only what is watched can come in.
        self._pool = self._best_of(np.arange(len(self._weights)))

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the items watched most lately, at most `POOL_SIZE`, best first.

        Returns:
            Rows int64 [P] and their weights float64 [P], all above 0.
        """
        pool = self._pool
        return pool, self._weights[pool]

    def add(self, rows: np.ndarray, moments: np.ndarray, *, sign: int = 1) -> None:
        """Count watches, or take them back.

        Args:
            rows: int [n], catalogue rows, repeats allowed; those of -1 are ignored.
            moments: int64 [n], when each became known.
            sign: 1 or -1.
        """
        known = rows >= 0
        rows, moments = rows[known], moments[known]
        if len(rows) == 0:
            return
        with self._lock:
            exponent = (moments - self._landmark) / self._half_life
            exponent -= self._move_landmark(float(exponent.max()))
            np.add.at(self._weights, rows, sign * np.exp2(exponent))
            self._pool = self._best_of(np.union1d(self._pool, rows))

    def take_over(self, other: "RecentWatches") -> None:
        """Weigh from now on as another of the same catalogue, which is not to be used again."""
        with self._lock:
            self._landmark, self._weights, self._pool = other._landmark, other._weights, other._pool

    def _move_landmark(self, farthest: float) -> float:
        """Move it before weights overflow; return by how many half-lives."""
        if farthest <= MAX_EXPONENT:
            return 0.0
        self._weights *= np.exp2(-farthest)
        self._landmark += farthest * self._half_life
        return farthest

    def _best_of(self, rows: np.ndarray) -> np.ndarray:
        weights = self._weights[rows]
        order = np.argsort(-weights, kind="stable")[:POOL_SIZE]
        return rows[order[weights[order] > SMALLEST]]


def watch_weights(
    rows: np.ndarray, moments: np.ndarray, *, num_items: int, until: int, half_life_hours: float
) -> np.ndarray:
    """Return the weights of items as of a moment: float64 [N].

    Args:
        rows: int [W], catalogue rows of watches, repeats allowed.
        moments: int64 [W], when each became known, before `until`.
        num_items: N.
        until: Microseconds since the epoch; the landmark of the weights.
        half_life_hours: After which a watch weighs half.
    """
    age = (until - moments) / (half_life_hours * MICROSECONDS_PER_HOUR)
    return np.bincount(rows, np.exp2(-age), num_items)
