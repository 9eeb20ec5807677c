"""A second bundle on trial: a canary answers a share of the users, a shadow only computes.

Who is in is decided by a hash (`recsys.experiment.assignment`), so nothing is stored, every server
decides alike, and the analysis finds the same users again: those of the arm `treatment` of
`user_split(salt, share)`. A larger share adds users and takes none out.
"""

from dataclasses import dataclass

from recsys.experiment.assignment import Split
from recsys.recommender import Recommender

CONTROL, TREATMENT = "control", "treatment"


@dataclass(frozen=True)
class Trial:
    """A bundle, and for whom.

    Args:
        recommender: Loaded and warm.
        split: Of users (a canary) or of requests (a shadow).
    """

    recommender: Recommender
    split: Split

    @property
    def share(self) -> float:
        """The share that it gets."""
        return self.split.shares[TREATMENT]

    def takes(self, key: str) -> bool:
        """Say whether a user or a request is in; one without a name is not."""
        return bool(key) and self.split.arm_of(key) == TREATMENT


def user_split(salt: str, share: float) -> Split:
    """Return how users (or requests) are divided between the active bundle and one on trial.

    Raises:
        ValueError: The salt is empty, or the share is none.
    """
    return Split(salt, {CONTROL: 1 - share, TREATMENT: share})
