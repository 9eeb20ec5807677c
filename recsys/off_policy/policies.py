"""The value of target policies from one log, and their difference, by every estimator that applies.

Refuses first, estimates second: a target whose weights fail `check_overlap` gets no value.

Letters: B logged impressions.
"""

from dataclasses import dataclass

import numpy as np

from recsys.errors import ComparisonError
from recsys.evaluation.intervals import Interval, ratio_difference_intervals, ratio_intervals
from recsys.off_policy import estimators
from recsys.off_policy.estimators import Terms
from recsys.off_policy.weights import Overlap, check_overlap, importance_weights

LIMITS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0, float("inf"))
"""What clipping, switching and shrinking choose from; shrinkage has the unit of w squared."""


@dataclass(frozen=True)
class LoggedRows:
    """A log of B impressions, drawn by a policy that knew its probabilities.

    Args:
        rewards: float [B], in the unit of the answer (clicks, seconds).
        propensities: float [B], above 0; None where the log has none, which is refused.
        users: int [B]; where users are not known, `np.arange(B)` takes rows as independent.
    """

    rewards: np.ndarray
    propensities: np.ndarray | None
    users: np.ndarray


@dataclass(frozen=True)
class Target:
    """A policy, as far as the log asks about it.

    Args:
        probabilities: float [B], of the logged item in the logged context.
        predicted: float [B], a model's reward of the logged item; None without a model.
        expected: float [B], the same model's mean reward over what the policy would show.
    """

    probabilities: np.ndarray
    predicted: np.ndarray | None = None
    expected: np.ndarray | None = None


@dataclass(frozen=True)
class PolicyValue:
    """What a log says of a target.

    Args:
        overlap: How much of the log speaks.
        estimates: By estimator: `ips`, `clipped_ips`, `snips`; with a model also
            `direct_method`, `doubly_robust`, `switch_doubly_robust`, `shrunk_doubly_robust`. The
            direct method's interval knows nothing of the model's error.
        limits: What was chosen, once on the whole log, for the estimators that have a limit.
    """

    overlap: Overlap
    estimates: dict[str, Interval]
    limits: dict[str, float]


def estimate_value(log: LoggedRows, target: Target, *, rounds: int, seed: int) -> PolicyValue:
    """Estimate a target's mean reward an impression, with intervals over users.

    Args:
        log: Of the logging policy.
        target: Another policy.
        rounds: Of the bootstrap over users.
        seed: Of its draws.

    Raises:
        ComparisonError: The log cannot answer: no propensities, or no overlap.
    """
    overlap = check_overlap(_weights(log, target), log.users)
    terms, limits = estimate_terms(log, target)
    above, below = _columns(terms)
    estimates = ratio_intervals(above, below, log.users, rounds=rounds, seed=seed)
    return PolicyValue(overlap, estimates, limits)


def estimate_difference(
    log: LoggedRows, first: Target, second: Target, *, rounds: int, seed: int
) -> dict[str, Interval]:
    """Estimate the first's mean reward less the second's, users drawn for both at once.

    Raises:
        ComparisonError: The log cannot answer for one of them, or only one has a model.
    """
    for target in (first, second):
        check_overlap(_weights(log, target), log.users)
    if (first.predicted is None) != (second.predicted is None):
        raise ComparisonError(
            "expected predicted rewards for both policies or for neither, got them for one; the "
            "estimators would differ, not the policies"
        )
    sides = [_columns(estimate_terms(log, target)[0]) for target in (first, second)]
    return ratio_difference_intervals(sides[0], sides[1], log.users, rounds=rounds, seed=seed)


def estimate_terms(log: LoggedRows, target: Target) -> tuple[dict[str, Terms], dict[str, float]]:
    """Return the terms of every estimator that applies, and the limits that were chosen.

    Raises:
        ComparisonError: There are no propensities.
    """
    weights, rewards, users = _weights(log, target), log.rewards, log.users
    inverse = estimators.ips(weights, rewards)

    def clipped(limit: float) -> Terms:
        return estimators.clipped_ips(weights, rewards, limit=limit)

    limits = {"clipped_ips": estimators.choose_limit(clipped, inverse, LIMITS, users)}
    terms = {
        "ips": inverse,
        "clipped_ips": clipped(limits["clipped_ips"]),
        "snips": estimators.snips(weights, rewards),
    }
    if target.predicted is None or target.expected is None:
        return terms, limits
    of_model = (weights, rewards, target.predicted, target.expected)
    robust = estimators.doubly_robust(*of_model)

    def switched(limit: float) -> Terms:
        return estimators.switch_doubly_robust(*of_model, limit=limit)

    def shrunk(limit: float) -> Terms:
        return estimators.shrunk_doubly_robust(*of_model, shrinkage=limit)

    terms |= {"direct_method": estimators.direct_method(target.expected), "doubly_robust": robust}
    for name, estimate in (("switch_doubly_robust", switched), ("shrunk_doubly_robust", shrunk)):
        limits[name] = estimators.choose_limit(estimate, robust, LIMITS, users)
        terms[name] = estimate(limits[name])
    return terms, limits


def _weights(log: LoggedRows, target: Target) -> np.ndarray:
    return importance_weights(target.probabilities, log.propensities)


def _columns(terms: dict[str, Terms]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    above = {name: term.above for name, term in terms.items()}
    return above, {name: term.below for name, term in terms.items()}
