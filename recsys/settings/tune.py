"""What `recsys tune` tries: `[tune]`."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from recsys.settings.base import Settings

Choice = bool | int | float | str | tuple[int | float | str, ...] | dict[str, int]


class SearchRange(Settings):
    """What `recsys tune` tries for one setting: numbers from `low` to `high`, or `choices`."""

    low: float | None = None
    high: float | None = None
    """Both ends are tried."""
    log: bool = False
    """Every factor is as likely as every other, rather than every difference."""
    step: float | None = Field(default=None, gt=0)
    choices: tuple[Choice, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("expected choices alone, or low and high")
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("expected low and high, the smaller first, or choices")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("expected low > 0 and no step where log = true")
        steps = (self.high - self.low) / (self.step or (self.high - self.low))
        if abs(steps - round(steps)) > 1e-9:
            raise ValueError("expected a whole number of steps from low to high")
        return self


class TuneSettings(Settings):
    """What `recsys tune` searches, and for how long."""

    stage: Literal["candidates", "ranking"] = "candidates"
    trials: int = Field(default=30, ge=1)
    """Of the whole study, however often it is started."""
    max_seconds: float | None = Field(default=None, gt=0)
    """After so long no further trial is begun; starting it again goes on."""
    processes: int = Field(default=1, ge=1)
    """Trials at a time, each on its share of the cores."""
    space: dict[str, SearchRange] = {}
    """Setting -> what to try: `"candidates.dropout" = { low = 0, high = 0.5 }`."""

    @field_validator("space", mode="before")
    @classmethod
    def _flatten(cls, value: object) -> object:
        """Take the name of a setting without quotes too, which TOML reads as nested tables."""
        return dict(_leaves(value, "")) if isinstance(value, Mapping) else value


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        is_section = isinstance(value, Mapping) and any(
            isinstance(nested, Mapping) for nested in value.values()
        )
        if is_section:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
