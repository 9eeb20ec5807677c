"""Negatives of the sampled softmax: which items, and how often each is expected in the sample.

A sample may be a mixture: so many draws from one distribution, so many from another. How often an
item is expected is then the sum over the parts, which keeps the estimate of the partition
function unbiased (the logQ correction of a mixture; Yang et al. 2020, Mixed Negative Sampling).
"""

from collections.abc import Mapping

import numpy as np

from recsys.core.losses import HIDDEN_LOGIT
from recsys.settings import NegativeDistribution


class NegativeSampler:
    """Draws items with replacement.

    Args:
        mixture: Distribution -> number of draws. `uniform`; `log_uniform`, P(r) = log((r + 2) /
            (r + 1)) / log(N + 1) by the item's rank in popularity, which is its row;
            `frequency`, by number of watches; `in_batch`, labels of the batch, whose distribution
            is that of the watches; `concurrent`, by number of watches near the batch's time.
        watch_counts: int64 [N], training watches of each item; an item without any counts as one.
    """

    def __init__(
        self, mixture: Mapping[NegativeDistribution, int], watch_counts: np.ndarray
    ) -> None:
        self._mixture = dict(mixture)
        self._num_items = len(watch_counts)
        frequency = np.maximum(watch_counts, 1) / np.maximum(watch_counts, 1).sum()
        rank = np.arange(self._num_items)
        log_uniform = np.log((rank + 2) / (rank + 1)) / np.log(self._num_items + 1)
        self._fixed: dict[str, np.ndarray] = {
            "uniform": np.full(self._num_items, 1 / self._num_items),
            "log_uniform": log_uniform,
            "frequency": frequency,
            "in_batch": frequency,
        }
        self._cumulative = {name: np.cumsum(each) for name, each in self._fixed.items()}
        # The part of the expected counts that is the same for every batch.
        parts = [size * self._fixed[name] for name, size in mixture.items() if name in self._fixed]
        self._expected = np.sum([np.zeros(self._num_items), *parts], axis=0)

    def sample(
        self,
        rng: np.random.Generator,
        *,
        labels: np.ndarray | None = None,
        concurrent: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw negatives.

        Args:
            rng: Where chance comes from.
            labels: int32 [n], the batch's labels, for `in_batch`.
            concurrent: int32 [n], watches near the batch's time, for `concurrent`.

        Returns:
            int32 [M], rows; float32 [M], the log of how often each is expected in the sample.
        """
        pools = {"in_batch": labels, "concurrent": concurrent}
        drawn = [self._draw(name, size, rng, pools) for name, size in self._mixture.items()]
        items = np.concatenate(drawn)
        return items, self.log_expected_counts(items, concurrent)

    def log_expected_counts(
        self, items: np.ndarray, concurrent: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the log of how often items are expected in a sample: int [...] -> float32."""
        expected = self._expected[items]
        if concurrent is not None and "concurrent" in self._mixture:
            counts = np.bincount(concurrent, minlength=self._num_items)
            expected = expected + self._mixture["concurrent"] * counts[items] / len(concurrent)
        return np.log(np.maximum(expected, 1e-12)).astype(np.float32)

    def _draw(
        self,
        name: NegativeDistribution,
        size: int,
        rng: np.random.Generator,
        pools: Mapping[str, np.ndarray | None],
    ) -> np.ndarray:
        pool = pools.get(name)
        if pool is not None:
            return rng.choice(pool, size).astype(np.int32)
        cumulative = self._cumulative[name]
        found = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")
        return np.minimum(found, self._num_items - 1).astype(np.int32)


def merge_repeated(items: np.ndarray, log_expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge repeated negatives: int32, float32 [M] -> the same, filled up with what is hidden.

    n draws of an item count n / E, as one draw of which E / n are expected.
    """
    distinct, first, times = np.unique(items, return_index=True, return_counts=True)
    merged = np.full(len(items), -HIDDEN_LOGIT, np.float32)
    merged[: len(distinct)] = log_expected[first] - np.log(times)
    # A hidden entry stands for an item that is not there; it must not take the place of one.
    filled = np.full(len(items), distinct[0], np.int32)
    filled[: len(distinct)] = distinct
    return filled[::-1].copy(), merged[::-1].copy()
