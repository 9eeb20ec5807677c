"""A test's log to its result: who was assigned to which arm, what they did, what they did before.

Whoever was assigned is counted, with 0 where they have no rows: to leave out those who did nothing
would compare the arms' busy users, who are no longer alike. For the same reason only what was
before the assignment may adjust the result.

    assignment -> one arm a user, planned shares -> sums by user -> effect
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.errors import ComparisonError
from recsys.experiment.checks import check_sample_ratio
from recsys.experiment.effect import Effect, compare
from recsys.experiment.moments import Moments, columns_of


@dataclass(frozen=True)
class Assignment:
    """The U users of a test.

    Args:
        users: [U], sorted, each once.
        arms: [U], the name of each one's arm.
    """

    users: np.ndarray
    arms: np.ndarray

    @classmethod
    def of(cls, users: np.ndarray, arms: np.ndarray) -> "Assignment":
        """Find the users of a log of assignments or exposures, which may repeat them.

        Args:
            users: [B].
            arms: [B], names.

        Raises:
            ComparisonError: A user is in several arms.
        """
        distinct, first, user = np.unique(users, return_index=True, return_inverse=True)
        own = arms[first]
        is_crossed = own[user] != arms
        if is_crossed.any():
            row = int(np.argmax(is_crossed))
            raise ComparisonError(
                f"expected each user in one arm, but {len(np.unique(user[is_crossed])):,} of "
                f"{len(distinct):,} are in several, first user {users[row]} with {own[user[row]]} "
                f"and {arms[row]}; assign by user, not by request, and with one salt"
            )
        return cls(distinct, own)

    def counts(self) -> dict[str, int]:
        """Return the number of users of each arm."""
        names, counts = np.unique(self.arms, return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}


@dataclass(frozen=True)
class MetricRows:
    """Rows of a metric, of any users, in any order.

    Args:
        users: [B].
        values: float [B], what is summed (watch seconds).
        per: float [B], what it is a ratio to (ones, for seconds an impression); None for a mean
            over users.
    """

    users: np.ndarray
    values: np.ndarray
    per: np.ndarray | None = None


@dataclass(frozen=True)
class Analysis:
    """The result of a test with two arms.

    Args:
        num_users: By arm.
        ratio_p_value: Of the numbers of users having been drawn with the planned shares.
        effect: Of the treatment, at a fixed horizon; `always_valid` widens it for more looks.
    """

    num_users: dict[str, int]
    ratio_p_value: float
    effect: Effect


def analyse(
    assignment: Assignment,
    shares: Mapping[str, float],
    rows: MetricRows,
    before: MetricRows | None = None,
    *,
    treatment: str,
    control: str,
    alpha: float = 0.05,
) -> Analysis:
    """Compare two arms by a metric, after the checks without which no comparison holds.

    Args:
        assignment: Of all arms.
        shares: Arm -> planned share of the users, of all arms; they sum to 1.
        rows: The metric from each user's assignment on.
        before: The same metric before it, for CUPED.
        treatment, control: Names of the two arms.
        alpha: As in `compare`.

    Raises:
        ComparisonError: Sample ratio mismatch, or an arm of fewer than two users.
    """
    num_users = assignment.counts()
    ratio_p_value = check_sample_ratio(num_users, shares)
    columns = metric_columns(assignment.users, rows, before)
    arms = [Moments.of(columns[assignment.arms == arm]) for arm in (treatment, control)]
    return Analysis(num_users, ratio_p_value, compare(arms[0], arms[1], alpha=alpha))


def metric_columns(
    users: np.ndarray, rows: MetricRows, before: MetricRows | None = None
) -> np.ndarray:
    """Return what `Moments.of` takes: the sums of each user, 0 without rows: float64 [U, 4].

    Args:
        users: [U], sorted, each once; rows of others do not count.
        rows: The metric in the test.
        before: The same metric before it.
    """
    values, per = _sums(users, rows)
    if before is None:
        return columns_of(values, per=per)
    values_before, per_before = _sums(users, before)
    return columns_of(values, per=per, before=values_before, per_before=per_before)


def _sums(users: np.ndarray, rows: MetricRows) -> tuple[np.ndarray, np.ndarray | None]:
    place = np.minimum(np.searchsorted(users, rows.users), len(users) - 1)
    is_known = users[place] == rows.users
    known = place[is_known]

    def sum_of(column: np.ndarray) -> np.ndarray:
        return np.bincount(known, column[is_known], len(users))

    return sum_of(rows.values), None if rows.per is None else sum_of(rows.per)
