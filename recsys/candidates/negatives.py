"""Negatives of the sampled softmax: which items, and how often each is expected in the sample."""

from typing import Literal

import numpy as np

Distribution = Literal["uniform", "log_uniform", "frequency"]


class NegativeSampler:
    """Draws items with replacement from a fixed distribution.

    Args:
        distribution: `uniform`; `log_uniform`, P(r) = log((r + 2) / (r + 1)) / log(N + 1) by the
            item's rank in popularity, which is its row; `frequency`, by number of watches.
        watch_counts: int64 [N], training watches of each item; an item without any counts as one.
    """

    def __init__(self, distribution: Distribution, watch_counts: np.ndarray) -> None:
        self.probability = _probabilities(distribution, watch_counts)  # float64 [N]
        self._cumulative = np.cumsum(self.probability)

    def sample(self, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw negatives.

        Args:
            size: M.
            rng: Where chance comes from.

        Returns:
            int32 [M], rows; float32 [M], the log of how often each is expected among M draws.
        """
        draws = rng.random(size) * self._cumulative[-1]
        items = np.searchsorted(self._cumulative, draws, side="right")
        items = np.minimum(items, len(self.probability) - 1)
        log_expected = np.log(size * self.probability[items])
        return items.astype(np.int32), log_expected.astype(np.float32)


def _probabilities(distribution: Distribution, watch_counts: np.ndarray) -> np.ndarray:
    num_items = len(watch_counts)
    if distribution == "uniform":
        return np.full(num_items, 1 / num_items)
    if distribution == "log_uniform":
        rank = np.arange(num_items)
        return np.log((rank + 2) / (rank + 1)) / np.log(num_items + 1)
    counts = np.maximum(watch_counts, 1)
    return counts / counts.sum()
