"""Batches of impressions for the ranking net, all of one shape."""

from collections.abc import Iterator

import numpy as np

from recsys.core.random import stream
from recsys.ranking.heads import Heads
from recsys.ranking.objective import LABELS
from recsys.ranking.rows import UNKNOWN, RankingRows
from recsys.ranking.spec import FeatureSpec, duration_seconds, model_inputs


class RankingBatches:
    """Shuffled training batches: users in random order, each user's rows in random order.

    Args:
        rows: All impressions.
        chosen: int64 [n], those to train on.
        batch_size: Rows a batch; the last one is filled up with rows of weight 0.
        heads: Whose labels are made.
        spec: Of the features.
        users_together: Keep the rows of a user side by side, for losses over pairs of them.
        seed: Of the order.
    """

    def __init__(
        self,
        rows: RankingRows,
        chosen: np.ndarray,
        batch_size: int,
        *,
        heads: Heads,
        spec: FeatureSpec,
        users_together: bool,
        seed: int,
    ) -> None:
        self._rows, self._chosen, self._batch_size = rows, chosen, batch_size
        self._unit_ms = 1000 * heads.mean_watch_seconds
        self._percentile: np.ndarray | None = None
        if "percentile" in heads.names:
            duration = duration_seconds(rows.features, spec)[:, 0]
            self._percentile = heads.percentiles(rows.watch_ms / 1000, duration)
        self._users_together, self._seed = users_together, seed

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._chosen) // self._batch_size)

    def __call__(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch, always the same for the same epoch."""
        rng = stream(self._seed, "ranking_batches", epoch)
        order = rng.permutation(self._chosen)
        if self._users_together:
            user = self._rows.user[order]
            place = rng.permutation(int(user.max(initial=0)) + 1)
            order = order[np.argsort(place[user], kind="stable")]
        return self._batches(order)

    def in_order(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the chosen rows in their own order."""
        return self._batches(self._chosen)

    def _batches(self, order: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(order), self._batch_size):
            yield self._batch(order[start : start + self._batch_size])

    def _batch(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        rows, missing = self._rows, self._batch_size - len(chosen)
        batch = {name: rows.features[name][chosen] for name in model_inputs(rows.features)}
        batch |= {
            "watch_time": (rows.watch_ms[chosen] / self._unit_ms).astype(np.float32),
            "user": rows.user[chosen],
            "weight": np.ones(len(chosen), np.float32),
        }
        for name in LABELS.values():
            label = getattr(rows, name)[chosen]
            batch[name] = (label > 0).astype(np.float32)
            batch[f"{name}_weight"] = (label != UNKNOWN).astype(np.float32)
        if self._percentile is not None:
            batch["percentile"] = self._percentile[chosen]
        return {name: _filled(values, missing) for name, values in batch.items()}


def _filled(values: np.ndarray, missing: int) -> np.ndarray:
    if missing == 0:
        return values
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
