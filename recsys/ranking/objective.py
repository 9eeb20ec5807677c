"""What the ranking net learns from: the losses of its heads, and of the order of pairs.

A training batch of B impressions adds to the features

    watch_time        float32 [B]  watch seconds in units of `Heads.mean_watch_seconds`
    percentile        float32 [B]  among training rows of like duration, 0 to 1
    completed, clicked, liked            float32 [B]  1 or 0
    completed_weight, ...                float32 [B]  0 where it is unknown
    user              int32 [B]    rows of one user are neighbours
    weight            float32 [B]  0 for padding
"""

import numpy as np
from keras import ops

from recsys.core import losses
from recsys.core.backends import Batch, Tensor
from recsys.ranking.heads import CURVE, LARGEST_LOGIT, Heads
from recsys.settings import RankingSettings

LABELS = {"completion": "completed", "click": "clicked", "like": "liked"}
"""Head -> what its probability is of."""


class Objective:
    """The loss of raw outputs.

    Args:
        settings: Weights of the heads, of pairs, and of the mean's correction.
        heads: What the raw outputs are.
    """

    def __init__(self, settings: RankingSettings, heads: Heads) -> None:
        self.columns = heads.columns()
        self.weights = {name: head.weight for name, head in settings.heads.on().items()}
        self.pairwise_weight = settings.pairwise_weight
        self.correction_penalty = settings.mean_correction_penalty
        self.thresholds = in_units(heads)

    def __call__(self, raw: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the heads' losses, each the mean over the weighted rows, and its parts.

        Args:
            raw: float [B, K].
            batch: With the labels.
        """
        of_rows, weight = self.row_losses(raw, batch), batch["weight"]
        figures = {
            f"{name}_loss": losses.weighted_mean(of_rows[:, head], weight)
            for head, name in enumerate(self.weights)
        }
        total = sum(self.weights[name] * figures[f"{name}_loss"] for name in self.weights)
        if CURVE in self.columns and self.correction_penalty:
            correction = self._correction(raw)
            # What all rows are corrected by stays free: the curve's mean is cut off for each.
            common = losses.weighted_mean(correction, weight)
            square = losses.weighted_mean(ops.square(correction - common), weight)
            total = total + self.correction_penalty * square
        if self.pairwise_weight:
            figures["pairwise_loss"] = pairwise_loss(self._logits(raw, "completion"), batch)
            total = total + self.pairwise_weight * figures["pairwise_loss"]
        return total, figures

    def row_losses(self, raw: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each head: float [B, H]; 0 for a label that is unknown."""
        return ops.stack([self._row_loss(name, raw, batch) for name in self.weights], axis=-1)

    def _row_loss(self, name: str, raw: Tensor, batch: Batch) -> Tensor:
        watch_time = batch["watch_time"]
        if name == CURVE:
            return losses.ordinal(raw[:, self.columns[CURVE]], self.thresholds, watch_time)
        logits = self._logits(raw, name)
        if name == "expected":
            clipped = ops.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT)
            return losses.expected_watch_time(clipped, watch_time)
        if name == "median":
            return losses.absolute_error(ops.softplus(logits), watch_time)
        if name == "percentile":
            return losses.binary_cross_entropy(logits, batch["percentile"])
        label = LABELS[name]
        return losses.binary_cross_entropy(logits, batch[label]) * batch[f"{label}_weight"]

    def _logits(self, raw: Tensor, name: str) -> Tensor:
        return raw[:, self.columns[name].start]

    def _correction(self, raw: Tensor) -> Tensor:
        curve = raw[:, self.columns[CURVE]]
        return self._logits(raw, "expected") - log_mean_of_curve(curve, self.thresholds)


def in_units(heads: Heads) -> np.ndarray:
    """Return the thresholds in units of the mean watch time: float32 [M]."""
    seconds = np.array(heads.thresholds_seconds, np.float64)
    return (seconds / heads.mean_watch_seconds).astype(np.float32)


def log_mean_of_curve(logits: Tensor, thresholds: np.ndarray) -> Tensor:
    """Return log of the area below a curve of P(T > t), to its end t_M: float [..., M] -> [...].

    That is E[min(T, t_M)]: t_1 / 2 + sum_m sigmoid(z_m) (t_{m+1} - t_{m-1}) / 2 with t_0 = 0 and
    t_{M+1} = t_M, linear between thresholds as `heads.curve_quantiles` has it. CREAD (Sun et al.
    2024) restores the mean by rectangles instead, which leave out all that lies below t_1. The
    curve does not learn from it: its own loss says what it is.
    """
    edges = np.array([0, *thresholds, thresholds[-1]], np.float32)
    weights = ops.convert_to_tensor((edges[2:] - edges[:-2]) / 2)
    mean = edges[1] / 2 + ops.sum(ops.sigmoid(logits) * weights, axis=-1)
    return ops.log(ops.stop_gradient(mean))


def pairwise_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return softplus(z_negative - z_positive) over neighbouring rows of one user.

    Rendle et al. 2009 (BPR), with pairs from the impressions of one user.

    Args:
        logits: float [B], of completion.
        batch: With the labels.
    """
    known = batch["weight"] * batch["completed_weight"]
    is_pair = ops.cast(ops.equal(batch["user"][1:], batch["user"][:-1]), logits.dtype)
    direction = batch["completed"][1:] - batch["completed"][:-1]  # 1, 0 or -1
    weight = is_pair * ops.abs(direction) * known[1:] * known[:-1]
    values = ops.softplus(-direction * (logits[1:] - logits[:-1]))
    return losses.weighted_mean(values, weight)
