"""Importance weights: what a log can say about a policy that did not write it.

Letters: B logged impressions, N items. mu is the logging policy, pi the target.

    w_b = pi(a_b | x_b) / mu(a_b | x_b)
    E_mu[w] = 1                              where mu shows all that pi shows
    effective rows = (sum w)^2 / sum w^2     as many rows of pi's own log would be as sure (Kish)

A log without propensities, or whose policy never shows what the target shows, has no answer:
`ComparisonError` says so, instead of a number that looks like one.

References:
    Horvitz, Thompson, A generalization of sampling without replacement, JASA 1952.
    Saito, Joachims, Off-policy evaluation for large action spaces via embeddings, ICML 2022.
"""

from dataclasses import dataclass

import numpy as np

from recsys.errors import ComparisonError
from recsys.evaluation.intervals import ratio_standard_error

MIN_EFFECTIVE_ROWS = 100.0
"""Fewer make percentile intervals too narrow: they see too few of the heavy weights."""
MAX_UNSUPPORTED = 0.01
"""Share of the target's choices that the logging policy never makes: the value it may hide."""
MAX_DEVIATIONS = 4.0
"""Standard errors that the mean weight may lie from 1: by chance once in 16,000 logs."""
ROUNDING = 1e-3
"""What float32 propensities and rounded tables may add to that."""


@dataclass(frozen=True)
class Overlap:
    """How much of a log speaks about a target policy.

    Args:
        num_rows: B.
        effective_rows: (sum w)^2 / sum w^2.
        matched_share: Share of rows that the target could have shown at all.
        mean_weight: 1 but for chance, where propensities are true and cover the target.
        mean_weight_error: Its standard error over users; NaN for a single user.
        largest_share: Share of the heaviest row in the sum of the weights.
    """

    num_rows: int
    effective_rows: float
    matched_share: float
    mean_weight: float
    mean_weight_error: float
    largest_share: float


def importance_weights(target: np.ndarray, logging: np.ndarray | None) -> np.ndarray:
    """Return pi / mu of each logged item: float64 of the same shape.

    Args:
        target: float [...], the target policy's probability of what was logged, 0 to 1.
        logging: float [...], the logging policy's, above 0 and up to 1. None where the log
            has none.

    Raises:
        ComparisonError: There are no propensities, or some are no probabilities.
    """
    if logging is None or np.size(logging) == 0 or np.isnan(logging).all():
        raise ComparisonError(
            "off-policy estimates expect the probability with which each item was shown (column "
            "`propensity`), but the log has none; log it from a policy that draws at random, or "
            "compare by simulation or by a test on users"
        )
    if np.shape(target) != np.shape(logging):
        raise ValueError(
            f"expected both policies' probabilities of the same rows, got {list(np.shape(target))} "
            f"and {list(np.shape(logging))}"
        )
    _check_probabilities("propensity", logging, above_zero=True)
    _check_probabilities("target probability", target, above_zero=False)
    return np.asarray(target, np.float64) / np.asarray(logging, np.float64)


def marginal_weights(
    target: np.ndarray, logging: np.ndarray, categories: np.ndarray, items: np.ndarray
) -> np.ndarray:
    """Return P_pi(c_b | x_b) / P_mu(c_b | x_b), c_b the category of the logged item.

    The weights of marginalised IPS (Saito & Joachims 2022, eq. 8) where an item has one category.
    Far lighter than w among many items; without bias where rewards depend on the category only.

    Args:
        target, logging: float [B, N], all probabilities of both policies.
        categories: int [N], 0 and up, of each item.
        items: int [B], what was logged.

    Returns:
        float64 [B].

    Raises:
        ComparisonError: The logging policy never shows a category that was logged.
    """
    chosen = categories[items]
    by_category = np.argsort(categories, kind="stable")
    starts = np.searchsorted(categories[by_category], np.unique(categories))
    column = np.searchsorted(np.unique(categories), chosen)
    row = np.arange(len(items))
    marginal_target, marginal_logging = (
        # Sums of many shares may come out a rounding above 1.
        np.minimum(np.add.reduceat(shares[:, by_category], starts, axis=1)[row, column], 1.0)
        for shares in (np.asarray(target, np.float64), np.asarray(logging, np.float64))
    )
    return importance_weights(marginal_target, marginal_logging)


def measure_overlap(weights: np.ndarray, users: np.ndarray) -> Overlap:
    """Describe the weights: float [B], with the int [B] user of each row."""
    total = float(weights.sum())
    squares = float(weights @ weights)
    return Overlap(
        num_rows=len(weights),
        effective_rows=total**2 / squares if squares else 0.0,
        matched_share=float((weights > 0).mean()) if len(weights) else 0.0,
        mean_weight=total / len(weights) if len(weights) else 0.0,
        mean_weight_error=ratio_standard_error(weights, np.ones(len(weights)), users),
        largest_share=float(weights.max()) / total if total else 0.0,
    )


def check_overlap(
    weights: np.ndarray, users: np.ndarray, *, min_effective_rows: float = MIN_EFFECTIVE_ROWS
) -> Overlap:
    """Describe the weights, or refuse a comparison that they cannot carry.

    Args:
        weights: float [B].
        users: int [B].
        min_effective_rows: Fewer are refused.

    Raises:
        ComparisonError: Too few effective rows; or a mean weight so far from 1 that the log does
            not cover the target, or its propensities are not those of the policy that wrote it.
    """
    overlap = measure_overlap(weights, users)
    if overlap.effective_rows < min_effective_rows:
        raise ComparisonError(
            f"no overlap: expected at least {min_effective_rows:g} effective rows, got "
            f"{overlap.effective_rows:.1f} of {overlap.num_rows:,} ({overlap.matched_share:.2%} of "
            f"the rows are items that the target could show); log with more exploration, take a "
            f"target nearer to the logging policy, or weigh by category (marginal_weights)"
        )
    distance = overlap.mean_weight - 1
    if abs(distance) > MAX_DEVIATIONS * overlap.mean_weight_error + ROUNDING:
        cause = (
            "the target shows items that the logging policy hardly ever or never shows"
            if distance < 0
            else "the propensities are too small to be those of what was logged"
        )
        raise ComparisonError(
            f"expected a mean weight of 1, got {overlap.mean_weight:.4f} with a standard error of "
            f"{overlap.mean_weight_error:.4f}: {cause}; leave such items out of the target, or "
            f"check that both policies' probabilities are of the same candidates and place"
        )
    return overlap


def check_support(
    target: np.ndarray, logging: np.ndarray, *, max_unsupported: float = MAX_UNSUPPORTED
) -> float:
    """Return the share of the target's choices that the logging policy never makes.

    Args:
        target, logging: float [B, N], all probabilities of both policies.
        max_unsupported: More is refused; estimates may be wrong by this share of the rewards.

    Raises:
        ComparisonError: The share is larger.
    """
    share = float(np.where(logging > 0, 0.0, target).sum(axis=1).mean())
    if share > max_unsupported:
        raise ComparisonError(
            f"no overlap: expected at most {max_unsupported:.1%} of the target's choices among "
            f"items that the logging policy never shows, got {share:.1%}; leave those items out of "
            f"the target, or log with exploration over the whole catalogue"
        )
    return share


def _check_probabilities(what: str, values: np.ndarray, *, above_zero: bool) -> None:
    flat = np.asarray(values, np.float64).ravel()
    valid = ((flat > 0) if above_zero else (flat >= 0)) & (flat <= 1)
    if not valid.all():
        row = int(np.argmin(valid))
        raise ComparisonError(
            f"{what} of row {row}: expected a probability {'above 0' if above_zero else 'from 0'} "
            f"up to 1, got {flat[row]:g}; {int((~valid).sum()):,} of {len(flat):,} rows are like "
            f"that: leave out rows that no policy drew (searches, pinned items), or mend the log"
        )
