"""Peers that learn the distribution of the watch time: D2Q and CREAD.

References:
    Zhan et al. 2022, Deconfounding Duration Bias in Watch-time Prediction for Video
    Recommendation (D2Q).
    Sun et al. 2024, CREAD: A Classification-Restoration Framework with Error Adaptive
    Discretization for Watch Time Prediction in Video Recommender Systems.
"""

from dataclasses import dataclass

import numpy as np
from keras import ops

from benchmarks.peers.ranking_rows import PeerRows, Scores
from benchmarks.peers.ranking_training import (
    Encoding,
    TowerNet,
    fit,
    labels_of,
    outputs_of,
    unit_of,
)
from recsys.core import losses
from recsys.core.backends import Batch, Tensor

HIDDEN = (256, 128)
"""The tower of our own net."""
NUM_GROUPS = 30
"""Of durations; reports of the method have 30 to 60."""
NUM_THRESHOLDS = 32
SKEW = 2.0
"""alpha of CREAD's discretisation: near 0 equal frequency, larger ones nearer equal width. The
paper searches it; on our validation rows 2 has a lower error than 4."""
RESTORATION_WEIGHT = 1.0
HUBER_DELTA = 1.0
"""In mean watch times. Ten bring the sum of the expectations nearer the true one, with a worse
order of impressions."""
ORDER_WEIGHT = 0.04
"""A row; public code has 2e-5 on the sum over a batch of 2,048."""


def d2q(training: PeerRows, validation: PeerRows, test: PeerRows, *, seed: int) -> Scores:
    """Learn the percentile of the watch time among items of like duration, by least squares.

    The duration stays among the features. The watch time at the percentile is near a median; it
    stands for the expectation, too, since the method has no other.
    """
    encoding = Encoding.fit(training.features)
    net = TowerNet(encoding, HIDDEN, 1, seed=seed)
    groups = DurationGroups.fit(training.duration_seconds, training.watch_seconds, NUM_GROUPS)

    def row_losses(batch: Batch, is_training: bool) -> Tensor:
        outputs = net(batch, training=is_training)[:, 0]
        return ops.square(ops.sigmoid(outputs) - batch["percentile"])

    columns = [
        encoding.inputs(rows.features)
        | {"percentile": groups.percentiles(rows.duration_seconds, rows.watch_seconds)}
        for rows in (training, validation)
    ]
    fit(net, row_losses, *columns, seed=seed)
    outputs = outputs_of(net, encoding.inputs(test.features))[:, 0]
    seconds = groups.seconds(test.duration_seconds, _sigmoid(outputs))
    return {"expected_seconds": seconds, "median_seconds": seconds}


def cread(training: PeerRows, validation: PeerRows, test: PeerRows, *, seed: int) -> Scores:
    """Learn phi_m = P(T >= t_m) for thresholds t_m, and restore the expectation from them.

    The paper has P(T > t_m); thresholds are watch times that occur, so that ties must count above
    for the sum of a watch time that is certain to restore it.
    """
    unit = unit_of(training)
    watch_time = labels_of(training, unit)["watch_time"]
    thresholds = adaptive_thresholds(watch_time, NUM_THRESHOLDS, SKEW)
    encoding = Encoding.fit(training.features)
    net = TowerNet(encoding, HIDDEN, len(thresholds), seed=seed)

    def row_losses(batch: Batch, is_training: bool) -> Tensor:
        logits = net(batch, training=is_training)
        return _cread_losses(logits, batch["watch_time"], thresholds)

    columns = [
        encoding.inputs(rows.features) | labels_of(rows, unit) for rows in (training, validation)
    ]
    fit(net, row_losses, *columns, seed=seed)
    shares = _sigmoid(outputs_of(net, encoding.inputs(test.features)))
    return {
        "expected_seconds": unit * curve_means(shares, thresholds),
        "median_seconds": unit * curve_medians(shares, thresholds),
    }


@dataclass(frozen=True)
class DurationGroups:
    """The training watch times of items of like duration.

    Args:
        edges: float32 [G - 1], durations in seconds between the groups of known duration.
        watch_seconds: Of each group, ascending; the last group is of unknown duration.
    """

    edges: np.ndarray
    watch_seconds: tuple[np.ndarray, ...]

    @classmethod
    def fit(
        cls, duration_seconds: np.ndarray, watch_seconds: np.ndarray, num_groups: int
    ) -> "DurationGroups":
        """Cut at quantiles of the duration; a group without rows has those of all."""
        known = duration_seconds[~np.isnan(duration_seconds)]
        inner = np.linspace(0, 1, num_groups + 1)[1:-1]
        edges = np.unique(np.quantile(known, inner)) if len(known) else np.zeros(0)
        group = _group_of(duration_seconds, edges)
        parts = [watch_seconds[group == number] for number in range(len(edges) + 2)]
        filled = (part if len(part) else watch_seconds for part in parts)
        return cls(edges, tuple(np.sort(part) for part in filled))

    def percentiles(self, duration_seconds: np.ndarray, watch_seconds: np.ndarray) -> np.ndarray:
        """Return the share of the group's watch times below, equal ones half: float32 [R]."""
        out = np.empty(len(watch_seconds), np.float32)
        for chosen, known in self._parts(duration_seconds):
            below = np.searchsorted(known, watch_seconds[chosen], side="left")
            up_to = np.searchsorted(known, watch_seconds[chosen], side="right")
            out[chosen] = (below + up_to) / (2 * len(known))
        return out

    def seconds(self, duration_seconds: np.ndarray, percentiles: np.ndarray) -> np.ndarray:
        """Return the watch times at percentiles of the groups: float32 [R]."""
        out = np.empty(len(percentiles), np.float32)
        for chosen, known in self._parts(duration_seconds):
            middle = (np.arange(len(known)) + 0.5) / len(known)
            out[chosen] = np.interp(percentiles[chosen], middle, known)
        return out

    def _parts(self, duration_seconds: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return which rows each group has, and its watch times."""
        group = _group_of(duration_seconds, self.edges)
        return [
            (np.flatnonzero(group == number), known)
            for number, known in enumerate(self.watch_seconds)
        ]


def adaptive_thresholds(watch_time: np.ndarray, num_thresholds: int, skew: float) -> np.ndarray:
    """Return t_m, the quantile (1 - exp(-alpha m / M)) / (1 - exp(-alpha)) of the watch time.

    Equal ones are merged, and 0 is none: few enough as they are where watch times repeat.

    Args:
        watch_time: float32 [R], of the training rows.
        num_thresholds: M.
        skew: alpha > 0.
    """
    share = np.expm1(-skew * np.arange(1, num_thresholds + 1) / num_thresholds) / np.expm1(-skew)
    # Only values that occur: a threshold then lies on a watch time, not beside it.
    thresholds = np.unique(np.quantile(watch_time, share, method="inverted_cdf"))
    return thresholds[thresholds > 0]


def curve_means(shares: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the sum of phi_m (t_m - t_{m-1}), t_0 = 0: float [R, M], [M] -> [R]."""
    return shares @ np.diff(thresholds, prepend=np.float32(0))


def curve_medians(shares: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return where the curve through (0, 1) and the points (t_m, phi_m) falls to 1/2.

    Args:
        shares: float [R, M], phi; made monotone first.
        thresholds: float [M], t, ascending.

    Returns:
        float [R]; t_M where the curve stays above.
    """
    start = np.ones((len(shares), 1), shares.dtype)
    curve = np.minimum.accumulate(np.concatenate([start, shares], axis=1), axis=1)
    t = np.concatenate([[0], thresholds])
    after = np.argmax(curve <= 0.5, axis=1)  # 0 where none is
    after[curve[:, -1] > 0.5] = len(t) - 1
    rows = np.arange(len(curve))
    high, low = curve[rows, after - 1], curve[rows, after]
    way = np.clip((high - 0.5) / np.maximum(high - low, 1e-12), 0, 1)
    return t[after - 1] + way * (t[after] - t[after - 1])


def _cread_losses(logits: Tensor, watch_time: Tensor, thresholds: np.ndarray) -> Tensor:
    """Return classification, restoration and order losses of each row, added: float32 [B]."""
    is_above = ops.cast(watch_time[:, None] >= thresholds, logits.dtype)  # [B, M]
    classification = ops.mean(losses.binary_cross_entropy(logits, is_above), axis=-1)
    shares = ops.sigmoid(logits)
    widths = np.diff(thresholds, prepend=np.float32(0))
    restoration = _huber(ops.sum(shares * widths, axis=-1) - watch_time)
    order = ops.sum(ops.relu(shares[:, 1:] - shares[:, :-1]), axis=-1)
    return classification + RESTORATION_WEIGHT * restoration + ORDER_WEIGHT * order


def _huber(error: Tensor) -> Tensor:
    """Return error^2 / 2 up to an error of delta, and delta (|error| - delta / 2) beyond."""
    size = ops.minimum(ops.abs(error), HUBER_DELTA)
    return size * (ops.abs(error) - 0.5 * size)


def _group_of(duration_seconds: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the number of each duration's group; unknown ones are the last."""
    group = np.searchsorted(edges, duration_seconds)
    return np.where(np.isnan(duration_seconds), len(edges) + 1, group)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))
