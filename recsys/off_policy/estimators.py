"""Estimators of a policy's mean reward an impression, from the rows of another policy's log.

Letters: B logged impressions. Of each row: r the reward, w the importance weight
(`recsys.off_policy.weights`), q = q(x, a) the predicted reward of the logged item, and
v = sum over a of pi(a | x) q(x, a) the predicted reward of the target policy.

    IPS         mean of w r                             no bias; its variance grows with w
    clipped     mean of min(w, limit) r                 biased towards 0 where w > limit
    SNIPS       sum w r / sum w                         a little bias, far less variance
    DM          mean of v                               as good as q
    DR          mean of v + w (r - q)                   no bias, whatever q; less variance with it
    Switch-DR   mean of v + w 1[w <= limit] (r - q)     trusts q where w is large
    DRos        mean of v + w s / (w^2 + s) (r - q)     the same without an edge

`Terms` keeps what was summed, so that intervals can resample users.

References:
    Dudik, Langford, Li, Doubly robust policy evaluation and learning, ICML 2011 (DM, DR).
    Swaminathan, Joachims, The self-normalized estimator for counterfactual learning, NeurIPS 2015.
    Wang, Agarwal, Dudik, Optimal and adaptive off-policy evaluation, ICML 2017 (Switch).
    Su, Dimakopoulou, Krishnamurthy, Dudik, Doubly robust off-policy evaluation with shrinkage,
        ICML 2020 (DRos, and the choice of its parameter).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from recsys.evaluation.intervals import ratio_standard_error


@dataclass(frozen=True)
class Terms:
    """An estimate, as a ratio of two sums over rows.

    Args:
        above: float64 [B].
        below: float64 [B], ones for a plain mean.
    """

    above: np.ndarray
    below: np.ndarray

    @classmethod
    def mean(cls, values: np.ndarray) -> "Terms":
        """Return the terms of a mean over rows."""
        return cls(np.asarray(values, np.float64), np.ones(len(values)))

    @property
    def value(self) -> float:
        """The estimate; NaN where the rows below sum to 0."""
        below = float(self.below.sum())
        return float(self.above.sum()) / below if below else float("nan")


def ips(weights: np.ndarray, rewards: np.ndarray) -> Terms:
    """Weigh the rewards by w: float [B] each."""
    return Terms.mean(weights * rewards)


def clipped_ips(weights: np.ndarray, rewards: np.ndarray, *, limit: float) -> Terms:
    """Weigh the rewards by min(w, limit): float [B] each; the limit is at least 1."""
    return Terms.mean(np.minimum(weights, limit) * rewards)


def snips(weights: np.ndarray, rewards: np.ndarray) -> Terms:
    """Weigh the rewards by w, over the sum of the weights: float [B] each."""
    return Terms(weights * rewards, np.asarray(weights, np.float64))


def direct_method(expected: np.ndarray) -> Terms:
    """Take the model's word: float [B] v."""
    return Terms.mean(expected)


def doubly_robust(
    weights: np.ndarray, rewards: np.ndarray, predicted: np.ndarray, expected: np.ndarray
) -> Terms:
    """Correct the model by its weighted errors on the log.

    Args:
        weights, rewards: float [B].
        predicted: float [B] q, by a model that did not learn from the row (`cross_fit`).
        expected: float [B] v, by the same model.
    """
    return Terms.mean(expected + weights * (rewards - predicted))


def switch_doubly_robust(
    weights: np.ndarray,
    rewards: np.ndarray,
    predicted: np.ndarray,
    expected: np.ndarray,
    *,
    limit: float,
) -> Terms:
    """Correct the model only where w <= limit (eq. 8 of Wang et al.); arguments as for DR."""
    kept = np.where(weights <= limit, weights, 0.0)
    return doubly_robust(kept, rewards, predicted, expected)


def shrunk_doubly_robust(
    weights: np.ndarray,
    rewards: np.ndarray,
    predicted: np.ndarray,
    expected: np.ndarray,
    *,
    shrinkage: float,
) -> Terms:
    """Correct the model with optimistically shrunk weights, s w / (w^2 + s).

    Section 4.1 of Su et al.: the weights that minimise a bound on the error which trusts q.

    Args:
        weights, rewards, predicted, expected: As for DR.
        shrinkage: s, from 0 (the direct method) to infinity (DR).
    """
    if np.isinf(shrinkage):
        return doubly_robust(weights, rewards, predicted, expected)
    below = np.square(weights) + shrinkage
    shrunk = np.divide(shrinkage * weights, below, out=np.zeros(len(weights)), where=below > 0)
    return doubly_robust(shrunk, rewards, predicted, expected)


def choose_limit(
    estimate: Callable[[float], Terms],
    unbiased: Terms,
    limits: Iterable[float],
    users: np.ndarray,
) -> float:
    """Return the limit (or shrinkage) whose estimate has the least estimated squared error.

    Variance over users plus the square of the distance to the unbiased estimate, as in
    section 5 of Su et al. (with their direct estimate of the bias).

    Args:
        estimate: Of a limit, for example `lambda limit: clipped_ips(w, r, limit=limit)`.
        unbiased: The same without a limit: IPS, or DR.
        limits: To choose from; the first of equals.
        users: int [B].
    """

    def squared_error(limit: float) -> float:
        terms = estimate(limit)
        variance = ratio_standard_error(terms.above, terms.below, users) ** 2
        return variance + (terms.value - unbiased.value) ** 2

    return min(limits, key=squared_error)
