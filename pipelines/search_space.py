"""The `[tune.space]` of a configuration as Optuna's distributions, and what is drawn as settings.

The ends of the ranges and the choices are validated, each beside each, before anything is trained.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pipelines.config import override_settings, to_override
from pipelines.run import settings_of
from recsys.errors import ConfigError
from recsys.settings import RecsysSettings, SearchRange

Drawn = Mapping[str, Any]
"""Setting -> what Optuna drew. A choice is its JSON, as Optuna keeps no lists."""


@dataclass(frozen=True)
class SearchSpace:
    """What is searched.

    Args:
        settings: The configuration as it stands.
        distributions: Setting -> what is drawn for it.
    """

    settings: RecsysSettings
    distributions: Mapping[str, BaseDistribution]

    def values_of(self, drawn: Drawn) -> dict[str, Any]:
        """Return setting -> value."""
        return {
            name: json.loads(value) if self._is_choice(name) else value
            for name, value in drawn.items()
        }

    def settings_of(self, drawn: Drawn) -> RecsysSettings:
        """Return the configuration with what was drawn."""
        return _apply(self.settings, self.values_of(drawn))

    def drawn_of_settings(self) -> Drawn | None:
        """Return what would give the configuration as it stands; None where it lies outside."""
        drawn = {
            name: json.dumps(_value_at(self.settings, name))
            if self._is_choice(name)
            else _value_at(self.settings, name)
            for name in self.distributions
        }
        inside = (_is_in(self.distributions[name], value) for name, value in drawn.items())
        return drawn if all(inside) else None

    def _is_choice(self, name: str) -> bool:
        return isinstance(self.distributions[name], CategoricalDistribution)


def new_search_space(settings: RecsysSettings) -> SearchSpace:
    """Return the space of the configuration.

    Raises:
        ConfigError: It is empty, or names a setting or a value that a trial cannot have.
    """
    tune = settings.tune
    if not tune.space:
        raise ConfigError(
            f"tune.space: expected settings to search, such as "
            f'"{tune.stage}.training.learning_rate" = {{ low = 1e-4, high = 1e-2, log = true }}'
        )
    _check_names(settings)
    lowest = {name: _ends(searched)[0] for name, searched in tune.space.items()}
    for corner in _corners(tune.space, lowest):
        _apply(settings, corner)
    first = _apply(settings, lowest)
    drawn_from = {
        name: _distribution(name, searched, _value_at(first, name))
        for name, searched in tune.space.items()
    }
    return SearchSpace(settings, drawn_from)


def _check_names(settings: RecsysSettings) -> None:
    stage = settings.tune.stage
    fixed = {*settings_of("prepared", settings)["columns"], "validation_metric"}
    for name in settings.tune.space:
        if not name.startswith(f"{stage}."):
            raise ConfigError(
                f"tune.space: expected settings of the stage that is tuned, such as "
                f"{stage}.dropout, got {name}; change it or tune.stage"
            )
        if name.removeprefix(f"{stage}.") in fixed:
            raise ConfigError(
                f"tune.space.{name}: it changes how the log is prepared, or what is measured, "
                f"which all trials share; set it once, outside of tune.space"
            )


def _corners(
    space: Mapping[str, SearchRange], lowest: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Give every pair of ends of every two settings: no rule of the settings joins more."""
    for one, other in combinations_with_replacement(space, 2):
        for ends in product(_ends(space[one]), _ends(space[other])):
            yield {**lowest, one: ends[0], other: ends[1]}


def _ends(searched: SearchRange) -> Sequence[Any]:
    return searched.choices or (searched.low, searched.high)


def _apply(settings: RecsysSettings, values: Mapping[str, Any]) -> RecsysSettings:
    overrides = [to_override(name, value) for name, value in values.items()]
    return override_settings(settings, overrides, origin="tune.space")


def _distribution(name: str, searched: SearchRange, read: Any) -> BaseDistribution:
    """Return the distribution; what the settings read its low end as says if it is whole."""
    if searched.choices:
        return CategoricalDistribution([json.dumps(choice) for choice in searched.choices])
    low, high, step = searched.low or 0.0, searched.high or 0.0, searched.step
    if not isinstance(read, int):
        return FloatDistribution(low, high, log=searched.log, step=step)
    if step is not None and step != int(step):
        raise ConfigError(f"tune.space.{name}: expected a whole step, got {step}")
    return IntDistribution(int(low), int(high), log=searched.log, step=int(step or 1))


def _value_at(settings: RecsysSettings, name: str) -> Any:
    value: Any = settings.model_dump(mode="json")
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _is_in(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if not isinstance(distribution, IntDistribution | FloatDistribution) or value is None:
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    steps = (value - distribution.low) / (distribution.step or 1)
    return distribution.step is None or abs(steps - round(steps)) < 1e-9
