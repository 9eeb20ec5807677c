"""What a bundle tells the server to do: `[serving]` and what lies below it."""

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from recsys.settings.base import Settings
from recsys.settings.exploration import OrderSettings


class SourceSettings(Settings):
    """How many candidates come from elsewhere than the candidate net: `[serving.sources]`.

    The net fills what these leave of `num_candidates`: by their quotas, and by not finding as much.
    """

    co_visitation: int = Field(default=0, ge=0)
    """What others watched beside the user's last watches."""
    recent_popularity: int = Field(default=0, ge=0)
    """What all users watch lately; it follows the events that the server receives."""
    same_channel: int = Field(default=0, ge=0)
    """Of the channels that the user watched last."""
    new_items: int = Field(default=0, ge=0)
    """The newest items, those without a vector too."""
    half_life_hours: float = Field(default=24.0, ge=1)
    """Of a watch in `recent_popularity`."""
    new_item_days: float = Field(default=7.0, gt=0)
    """Since upload or `available_from`, whichever came later; older items are not new."""

    def quotas(self) -> dict[str, int]:
        """Return the quota of each source that is on."""
        names = ("co_visitation", "recent_popularity", "same_channel", "new_items")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


class BoostSettings(Settings):
    """One rule: items of which all that it names is true score higher, or lower."""

    channel_ids: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    """An item needs one of each."""
    max_age_days: float | None = Field(default=None, gt=0)
    """Since upload; an item of unknown upload time is not young."""
    column: str = ""
    values: tuple[str, ...] = ()
    """An item needs one of these in the column."""
    factor: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    added_seconds: float = Field(default=0.0, allow_inf_nan=False)
    """The score times the factor, plus these."""

    @model_validator(mode="after")
    def _check_column(self) -> Self:
        if bool(self.column) != bool(self.values):
            raise ValueError(
                f"column = {self.column!r} with values = {list(self.values)}: expected both, or "
                f"neither"
            )
        return self


class ArrangementSettings(Settings):
    """What a page obeys beside the scores: `[serving.arrangement]`."""

    max_per_channel: PositiveInt | None = None
    """Items of one channel on a page."""
    min_fresh: int = Field(default=0, ge=0)
    """Items on a page that are younger than `fresh_days`, where there are as many."""
    fresh_days: float = Field(default=7.0, gt=0)
    diversity: float = Field(default=0.0, ge=0, lt=1)
    """How much being unlike the items above counts, against the score: 1 - lambda of MMR."""
    boosts: tuple[BoostSettings, ...] = ()
    """Applied in this order, each to what the one before gave."""


class ServingSettings(Settings):
    """What a bundle tells the server to do."""

    num_candidates: int = Field(default=300, ge=1)
    max_page_size: int = Field(default=100, ge=1)
    default_page_size: int = Field(default=20, ge=1)
    rewatch_surfaces: tuple[str, ...] = ()
    """Surfaces on which watched items may come back."""
    sources: SourceSettings = SourceSettings()
    arrangement: ArrangementSettings = ArrangementSettings()
    exploration: OrderSettings = OrderSettings()

    @model_validator(mode="after")
    def _check_quotas(self) -> Self:
        quotas = self.sources.quotas()
        if sum(quotas.values()) > self.num_candidates:
            raise ValueError(
                f"sources: expected quotas of at most num_candidates = {self.num_candidates} "
                f"together, got {quotas}; lower them, or raise num_candidates"
            )
        return self
