"""What a test needs to know of an arm: how many users, means and covariances of four sums.

Letters: U users of an arm; [...] any number of experiments side by side.

The unit is the user, so rows are summed within users first (`recsys.experiment.analysis`). Every
metric is a ratio of two sums over users, with its value before the test beside it:

    above, below                 the metric in the test; below is 1 a user for a mean
    above_before, below_before   the same users before the test, for CUPED; 0 and 1 where unknown

With the moments of the four, means, ratios and their CUPED versions are one formula
(`recsys.experiment.effect`), and 10,000 experiments cost no more code than one.
"""

from dataclasses import dataclass

import numpy as np

from recsys.errors import ComparisonError

NUM_COLUMNS = 4
ABOVE, BELOW, ABOVE_BEFORE, BELOW_BEFORE = range(NUM_COLUMNS)


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
            ComparisonError: There are fewer than two users, or a ratio has nothing below.
        """
        if len(columns) < 2:
            raise ComparisonError(
                f"an arm needs two users or more for a comparison, got {len(columns)}; check the "
                f"names of the arms and the shares of the split"
            )
        mean = columns.mean(axis=0)
        if (mean[BELOW] == 0) or (mean[BELOW_BEFORE] == 0):
            when = "in the test" if mean[BELOW] == 0 else "before the test"
            raise ComparisonError(
                f"a ratio metric expects something below the line, but {when} an arm has a sum of "
                f"0 there; check the ids of the users, or leave out the value before the test"
            )
        return cls(np.asarray(float(len(columns))), mean, np.cov(columns, rowvar=False))


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
