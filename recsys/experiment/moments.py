"""What a test needs to know of an arm: how many users, means and covariances of four sums.

Letters: U users of an arm; [...] any number of experiments side by side.

The unit is the user: whoever is assigned is counted, so rows are summed within users first. Every
metric is a ratio of two sums over users, with its value before the test beside it:

    above, below                 the metric in the test; below is 1 a user for a mean
    above_before, below_before   the same users before the test, for CUPED; 0 and 1 where unknown

With the moments of the four, means, ratios and their CUPED versions are one formula
(`recsys.experiment.effect`), and 10,000 experiments cost no more code than one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import ComparisonError

NUM_COLUMNS = 4


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of one arm.

    Args:
        num_users: float64 [...].
        mean: float64 [..., 4].
        covariance: float64 [..., 4, 4], divided by the number of users less one.
    """

    num_users: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, columns: np.ndarray) -> "Moments":
        """Compute them from `columns_of` one arm: float64 [U, 4].

        Raises:
            ComparisonError: There are fewer than two users.
        """
        if len(columns) < 2:
            raise ComparisonError(
                f"an arm needs two users or more for a comparison, got {len(columns)}; check the "
                f"names of the arms and the shares of the split"
            )
        number = np.asarray(float(len(columns)))
        return cls(number, columns.mean(axis=0), np.cov(columns, rowvar=False))


@dataclass(frozen=True)
class UserSums:
    """Rows of a test, summed by user.

    Args:
        users: [U], sorted, each once.
        arms: [U], the arm of each.
        sums: float64 [U, M].
    """

    users: np.ndarray
    arms: np.ndarray
    sums: np.ndarray


def columns_of(
    values: np.ndarray,
    *,
    per: np.ndarray | None = None,
    before: np.ndarray | None = None,
    per_before: np.ndarray | None = None,
) -> np.ndarray:
    """Return the four columns of one metric: float64 [U, 4].

    Args:
        values: float [U], a user's sum in the test (watch seconds).
        per: float [U], what it is a ratio to (impressions); None for a mean over users.
        before: float [U], values of the same users before the test, 0 for new ones.
        per_before: float [U], what those are a ratio to.

    Raises:
        ValueError: A ratio before the test lacks its lower part, or there is one too many.
    """
    if before is not None and (per is None) != (per_before is None):
        raise ValueError(
            "expected per and per_before for a ratio metric, or neither for a mean; the value "
            "before the test must be the same metric"
        )
    ones, zeros = np.ones(len(values)), np.zeros(len(values))
    return np.column_stack(
        [
            np.asarray(values, np.float64),
            ones if per is None else per,
            zeros if before is None else before,
            ones if per_before is None else per_before,
        ]
    )


def sum_by_user(users: np.ndarray, arms: np.ndarray, columns: Sequence[np.ndarray]) -> UserSums:
    """Sum the rows of each user, and check that a user saw one arm only.

    Args:
        users: [B].
        arms: [B], arm of each row.
        columns: M arrays float [B].

    Raises:
        ComparisonError: A user has rows in several arms.
    """
    distinct, first, user = np.unique(users, return_index=True, return_inverse=True)
    arm = arms[first]
    if (arm[user] != arms).any():
        row = int(np.argmax(arm[user] != arms))
        crossed = len(np.unique(user[arm[user] != arms]))
        raise ComparisonError(
            f"expected each user in one arm, but {crossed:,} of {len(distinct):,} users have rows "
            f"in several, first user {users[row]} with {arm[user[row]]} and {arms[row]}; assign by "
            f"user, not by request, and leave out rows from before the assignment"
        )
    sums = [np.bincount(user, column, minlength=len(distinct)) for column in columns]
    return UserSums(distinct, arm, np.column_stack(sums))
