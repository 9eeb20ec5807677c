"""How `recsys simulate` lets two bundles live in the synthetic world."""

from pydantic import Field

from recsys.settings.base import Settings


class SimulationSettings(Settings):
    """How long, for how many, and whether the arms learn on the way."""

    days: int = Field(default=7, ge=1)
    users: int | None = Field(default=None, ge=4)
    """The first so many of the world; None takes all."""
    retrain_days: int | None = Field(default=None, ge=1)
    """Make each arm's bundle anew, from its own log alone, every so many days; None never does."""
    bootstrap_rounds: int = Field(default=1000, ge=100)
    """Of the off-policy estimates."""
    seed: int = 0
