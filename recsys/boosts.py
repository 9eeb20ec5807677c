"""Rules of a site that make items score higher or lower: `[[serving.arrangement.boosts]]`.

All rules that an item meets together are one line: score * factor + added seconds.
"""

from dataclasses import dataclass

import numpy as np

from recsys.data.arrow_integers import filled
from recsys.data.catalogue import Catalogue
from recsys.data.columns import categories
from recsys.eligibility import Eligibility
from recsys.errors import ConfigError
from recsys.requests import ItemFilter
from recsys.settings import BoostSettings

MILLISECONDS_PER_DAY = 86_400_000


@dataclass(frozen=True)
class Boost:
    """What the rules make of the scores of C candidates.

    Args:
        factor, added_seconds: float64 [C].
    """

    factor: np.ndarray
    added_seconds: np.ndarray

    def of(self, seconds: np.ndarray) -> np.ndarray:
        """Return scores after the rules: float [C] -> float64 [C]."""
        return seconds * self.factor + self.added_seconds


class Boosts:
    """The rules of a bundle, each as a mark on all items.

    Args:
        rules: In the order in which they are applied.
        catalogue: Whose items they are about.
        eligibility: Of these.

    Raises:
        ConfigError: A rule is about a column that the items do not have.
    """

    def __init__(
        self, rules: tuple[BoostSettings, ...], catalogue: Catalogue, eligibility: Eligibility
    ) -> None:
        check_boosts(rules, catalogue)
        self._rules, self._eligibility = rules, eligibility
        self._is_meant = [_is_meant(rule, catalogue, eligibility) for rule in rules]  # [N] each

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._rules)

    def of(self, rows: np.ndarray, now: int) -> Boost:
        """Return what the rules make of candidates: catalogue rows int [C]."""
        factor, added = np.ones(len(rows)), np.zeros(len(rows))
        for rule, is_meant in zip(self._rules, self._is_meant, strict=True):
            meant = is_meant[rows]
            if rule.max_age_days is not None:
                max_age_ms = round(rule.max_age_days * MILLISECONDS_PER_DAY)
                meant = meant & self._eligibility.is_younger(rows, max_age_ms, now)
            factor = np.where(meant, rule.factor * factor, factor)
            added = np.where(meant, rule.factor * added + rule.added_seconds, added)
        return Boost(factor, added)


def check_boosts(rules: tuple[BoostSettings, ...], catalogue: Catalogue) -> None:
    """Refuse rules that the items of a catalogue cannot meet.

    Raises:
        ConfigError: A rule is about a column that the items do not have.
    """
    for rule in rules:
        if rule.column and rule.column not in catalogue.table.column_names:
            raise ConfigError(
                f"serving.arrangement.boosts: expected a column of the items, got "
                f"{rule.column!r}; they have {', '.join(catalogue.table.column_names)}"
            )


def _is_meant(rule: BoostSettings, catalogue: Catalogue, eligibility: Eligibility) -> np.ndarray:
    """Mark the items that a rule is about, whatever their age: bool [N]."""
    item_filter = ItemFilter(
        topics=frozenset(rule.topics),
        channel_ids=frozenset(rule.channel_ids),
        languages=frozenset(rule.languages),
    )
    # A value that no item has marks none: the items of a campaign may be yet to come.
    is_meant = eligibility.passes(np.arange(len(catalogue)), item_filter, 0)
    if rule.column:
        is_meant &= _has_value(rule, catalogue)
    return is_meant


def _has_value(rule: BoostSettings, catalogue: Catalogue) -> np.ndarray:
    encoded = categories(catalogue.table[rule.column])
    wanted = [
        code for code, value in enumerate(encoded.dictionary.to_pylist()) if value in rule.values
    ]
    codes = filled(encoded.indices, -1)
    return np.isin(codes, wanted)
