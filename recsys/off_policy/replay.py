"""Matched replay: a policy's value from a log whose items were drawn uniformly at random.

A row counts where the policy would have shown the logged item among its first m. Since every
item was equally likely, the matched rows are a fair sample of the policy's own log (of its m
places alike). Only m / N of the rows match, so what such a log can tell at all is said first.

References:
    Li, Chu, Langford, Wang, Unbiased offline evaluation of contextual-bandit-based news article
        recommendation algorithms, WSDM 2011.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from recsys.errors import ComparisonError
from recsys.evaluation.intervals import Interval, ratio_intervals, ratio_standard_error

MIN_UNIFORMITY = 1e-4
"""Smallest p-value of uniform item counts that is believed."""


@dataclass(frozen=True)
class ReplayPlan:
    """What a log can tell, known before any policy is asked.

    Args:
        num_rows: B.
        num_items: N.
        list_length: m.
        matched_rows: Expected, B m / N.
        mean: Of the reward over all rows.
        standard_error: Of a policy's mean reward, as if all policies' rewards varied like the
            log's; users' rows depend on each other as they do in the log.
        minimum_detectable_effect: Difference of two policies, matched on different rows, that is
            found at 5 % in 80 % of such logs; in units of the reward.
    """

    num_rows: int
    num_items: int
    list_length: int
    matched_rows: float
    mean: float
    standard_error: float
    minimum_detectable_effect: float


@dataclass(frozen=True)
class Replay:
    """The answer, behind what could be expected of it.

    Args:
        plan: Known before.
        matched_rows: As counted.
        value: Mean reward of the matched rows, with its interval over users.
    """

    plan: ReplayPlan
    matched_rows: int
    value: Interval


def plan_replay(
    items: np.ndarray,
    rewards: np.ndarray,
    users: np.ndarray,
    *,
    num_items: int,
    list_length: int,
) -> ReplayPlan:
    """Say what difference between two policies a uniformly random log can show.

    Args:
        items: int [B], 0 to N - 1, what was shown.
        rewards: float [B].
        users: int [B].
        num_items: N.
        list_length: m, 1 for the policy's first choice.

    Raises:
        ComparisonError: The items were not drawn uniformly.
        ValueError: There are no rows, or m is not between 1 and N.
    """
    if len(items) == 0 or not 1 <= list_length <= num_items:
        raise ValueError(
            f"expected rows and a list of 1 to {num_items} items, got {len(items)} rows and "
            f"list_length = {list_length}"
        )
    _check_uniform(items, num_items)
    matched = len(items) * list_length / num_items
    deviation = float(rewards.std())
    rows_error = deviation / np.sqrt(len(items))
    users_error = ratio_standard_error(rewards, np.ones(len(rewards)), users)
    # A user's matched rows are fewer, and so depend less: m / N of the excess is left.
    excess = (users_error / rows_error) ** 2 - 1 if rows_error else 0.0
    inflation = 1 + max(excess, 0.0) * list_length / num_items
    error = deviation * np.sqrt(inflation / matched)
    reach = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    return ReplayPlan(
        num_rows=len(items),
        num_items=num_items,
        list_length=list_length,
        matched_rows=matched,
        mean=float(rewards.mean()),
        standard_error=float(error),
        minimum_detectable_effect=float(reach * np.sqrt(2) * error),
    )


def replay(
    items: np.ndarray,
    chosen: np.ndarray,
    rewards: np.ndarray,
    users: np.ndarray,
    *,
    num_items: int,
    rounds: int,
    seed: int,
) -> Replay:
    """Average the rewards where the policy's list holds the logged item.

    Args:
        items: int [B], 0 to N - 1.
        chosen: int [B, m], the policy's first items for each row, none twice; -1 for none.
        rewards: float [B].
        users: int [B].
        num_items: N.
        rounds: Of the bootstrap over users.
        seed: Of its draws.

    Raises:
        ComparisonError: The items were not drawn uniformly, or no row matches.
    """
    plan = plan_replay(items, rewards, users, num_items=num_items, list_length=chosen.shape[1])
    is_match = (chosen == items[:, None]).any(axis=1).astype(np.float64)
    if not is_match.any():
        raise ComparisonError(
            f"no overlap: expected about {plan.matched_rows:.0f} rows whose item the policy would "
            f"show, got none; check that both number the items alike"
        )
    above, below = {"value": is_match * rewards}, {"value": is_match}
    value = ratio_intervals(above, below, users, rounds=rounds, seed=seed)["value"]
    return Replay(plan, int(is_match.sum()), value)


def _check_uniform(items: np.ndarray, num_items: int) -> None:
    counts = np.bincount(items, minlength=num_items)
    p_value = float(stats.chisquare(counts).pvalue) if len(counts) == num_items else 0.0
    if p_value < MIN_UNIFORMITY:
        raise ComparisonError(
            f"replay expects items drawn uniformly from {num_items}, got counts from "
            f"{counts.min():,} to {counts.max():,} among {len(counts):,} items (p = "
            f"{p_value:.1e}); use estimators with propensities instead (recsys.off_policy.policies)"
        )
