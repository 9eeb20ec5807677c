"""Parts of the requests in which two bundles may differ: who asks, from where, for what.

A segment is `dimension: value`; the values of a dimension that is known exclude each other.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.compare_log import PLACES, AskedEvents
from pipelines.compare_sides import SIDES, ItemSpace
from recsys.bundle import Bundle
from recsys.data.columns import category_of, integers

DAY_MICROSECONDS = 86_400_000_000
NO_TIME = -(2**63)
MAX_VALUES = 10
"""Of a place: the most frequent ones; the tail is too small to tell anything."""
KNOWN_WATCHES = {"none": 0, "1 to 4": 1, "5 to 19": 5, "20 to 99": 20, "100 or more": 100}
"""Name of a bin -> its least number of watches known before the request."""
ITEM_DAYS = {"under a day": 0, "1 to 7 days": 1, "7 to 30 days": 7, "30 days or more": 30}
"""Name of a bin -> its least age."""


def find_segments(
    asked: AskedEvents,
    known_watches: np.ndarray,
    bundles: Sequence[Bundle],
    space: ItemSpace,
    *,
    min_users: int,
) -> tuple[dict[str, np.ndarray], int]:
    """Divide the requests along every dimension that the log knows.

    Args:
        asked: Q watches.
        known_watches: int [Q], the user's watches known before each.
        bundles: The sides.
        space: Their items.
        min_users: Segments of fewer are left out.

    Returns:
        Name -> bool [Q], and how many were left out.
    """
    born = integers(space.table, "upload_time", NO_TIME)[asked.column("item")]
    dimensions = {
        "watches before": _binned(known_watches, KNOWN_WATCHES),
        "user": {"new": asked.is_new_user, "known before": ~asked.is_new_user},
        "item": _by_knowledge(asked, bundles, space),
        "item's age": _by_age(born, asked.column("moment")),
        **{place: _by_value(asked.values(place)) for place in PLACES},
    }
    segments = {
        f"{dimension}: {name}": own
        for dimension, values in dimensions.items()
        if sum(bool(own.any()) for own in values.values()) > 1
        for name, own in values.items()
        if own.any()
    }
    large = {
        name: own for name, own in segments.items() if len(np.unique(asked.users[own])) >= min_users
    }
    return large, len(segments) - len(large)


def _binned(values: np.ndarray, least: Mapping[str, int]) -> dict[str, np.ndarray]:
    number = np.searchsorted(list(least.values()), values, side="right") - 1
    return {name: number == bin_number for bin_number, name in enumerate(least)}


def _by_age(born: np.ndarray, moments: np.ndarray) -> dict[str, np.ndarray]:
    is_known = born != NO_TIME
    days = np.where(is_known, moments - np.where(is_known, born, 0), 0) // DAY_MICROSECONDS
    bins = _binned(np.maximum(days, 0), ITEM_DAYS)
    return {name: own & is_known for name, own in bins.items()}


def _by_knowledge(
    asked: AskedEvents, bundles: Sequence[Bundle], space: ItemSpace
) -> dict[str, np.ndarray]:
    """Tell targets apart by which bundle was trained on the item and can retrieve it."""
    ids = space.vocabulary.id_bytes(asked.column("item"))
    trained = []
    for bundle in bundles:
        rows = bundle.catalogue.vocabulary.rows_of_bytes(ids)
        trained.append((rows >= 0) & (rows < bundle.catalogue.num_trained))
    first, second = trained
    return {
        "trained in both": first & second,
        f"trained in {SIDES[0]} alone": first & ~second,
        f"trained in {SIDES[1]} alone": ~first & second,
        "trained in neither": ~first & ~second,
    }


def _by_value(values: Sequence[str | float | None]) -> dict[str, np.ndarray]:
    spelled = [category_of(value) for value in values]
    counts = Counter(value for value in spelled if value is not None)
    column = np.array(spelled, object)
    return {value: column == value for value, _ in counts.most_common(MAX_VALUES)}
