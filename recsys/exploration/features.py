"""The inputs of the neural process: one function for training rows and for requests.

A target (a candidate of a request) is what the ranking net is told of it, but for what it is told
of the user's past. The past is the context instead: watches of known time, each by what any state
of the user holds: which item, how long, whether it was a positive watch. What only its own moment
knew (counters, the request) a server could not tell again, so no watch has it. NumPy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.data.as_of import AsOf
from recsys.data.timelines import Timelines
from recsys.ranking.items import ItemFeatures
from recsys.ranking.spec import DURATION, ITEM_NUMERIC, USER_ITEM_NUMERIC, FeatureSpec

PADDING = -1
OF_ITEM = ("item", "categorical", "bags")
RANKING_FEATURES = ("user_categorical", *(f"candidate_{name}" for name in (*OF_ITEM, "numeric")))
"""Those of the ranking net that the process is fed too."""

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Watches:
    """Watches of known time, arrays of one shape.

    Args:
        item: int32, catalogue row, -1 padding.
        watch_ms: int64.
        is_watch: bool, a positive watch by the configured rule.
    """

    item: np.ndarray
    watch_ms: np.ndarray
    is_watch: np.ndarray

    def at(self, numbers: np.ndarray) -> "Watches":
        """Return the watches of numbers, padding where they are `PADDING`: int [...]."""
        is_known = numbers != PADDING
        found = Watches(
            item=np.full(numbers.shape, PADDING, np.int32),
            watch_ms=np.zeros(numbers.shape, np.int64),
            is_watch=np.zeros(numbers.shape, bool),
        )
        for name, values in vars(found).items():
            values[is_known] = getattr(self, name)[numbers[is_known]]
        return found


class KnownWatches:
    """The events of timelines that may be in a context, by when their watch time became known.

    The rule of `recsys.data.as_of`: an event is known strictly after its outcome became so. Items
    that the catalogue does not know are left out, as they are in training.

    Args:
        timelines: Of U users.
    """

    def __init__(self, timelines: Timelines) -> None:
        self.watches = Watches(timelines.item, timelines.watch_ms, timelines.is_watch)
        chosen = np.flatnonzero((timelines.watch_ms >= 0) & (timelines.item >= 0))
        owner, known_at = timelines.user_of_event()[chosen], timelines.outcome_moment[chosen]
        order = np.lexsort((known_at, owner))  # stable: of equal moments, as the events stand
        self._event = chosen[order]
        self._owner, self._known_at = owner[order], known_at[order]

    def counts(self, users: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Return how many watches of users are known at moments, int64 [Q] each: int64 [Q]."""
        return AsOf(self._owner, self._known_at, users, moments).counts()

    def newest(self, users: np.ndarray, moments: np.ndarray, length: int) -> np.ndarray:
        """Return the numbers of the events that became known last, from the newest on.

        Args:
            users, moments: int64 [Q].
            length: T.

        Returns:
            int64 [Q, T], of the timelines' events, -1 padding.
        """
        count, place = self.counts(users, moments), np.arange(length)
        is_known = place < count[:, None]
        if len(self._event) == 0:
            return np.full(is_known.shape, PADDING)
        newest = np.searchsorted(self._owner, users) + count - 1
        position = np.where(is_known, newest[:, None] - place, 0)
        return np.where(is_known, self._event[position], PADDING)


def target_numeric(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the names of a target's numbers: those that say nothing of the user's past."""
    return tuple(name for name in spec.item_numeric if name not in USER_ITEM_NUMERIC)


def watch_numeric(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the names of a known watch's numbers: those that the item always has."""
    own = (name for name in target_numeric(spec) if name not in ITEM_NUMERIC)
    return (*own, DURATION)


def process_inputs(
    features: Mapping[str, np.ndarray], context: Watches, items: ItemFeatures, spec: FeatureSpec
) -> Columns:
    """Compute every input of the neural process.

    Args:
        features: Of Q requests by C candidates, as `recsys.ranking.features` gives them.
        context: What is known of the requests' users, [Q, T].
        items: Features by catalogue row.
        spec: Of the ranking net.

    Returns:
        As `recsys.exploration.neural_process` describes a batch, without labels.
    """
    columns = [spec.item_numeric.index(name) for name in target_numeric(spec)]
    known = context.item != PADDING
    codes = items.codes_of(context.item, spec.item_categorical, spec.item_bags)
    return {
        "request": features["user_categorical"],
        **{f"target_{name}": features[f"candidate_{name}"] for name in OF_ITEM},
        "target_numeric": features["candidate_numeric"][..., columns],
        **{f"context_{name}": values for name, values in codes.items()},
        "context_numeric": _watch_numbers(context.item, items, spec),
        "context_outcome": log_seconds(context.watch_ms),
        "context_is_watch": context.is_watch.astype(np.float32),
        "context_known": known.astype(np.float32),
    }


def log_seconds(watch_ms: np.ndarray) -> np.ndarray:
    """Return the outcome y = log(1 + watch seconds): int64 [...] -> float32 [...]."""
    return np.log1p(watch_ms / 1000).astype(np.float32)


def _watch_numbers(item: np.ndarray, items: ItemFeatures, spec: FeatureSpec) -> np.ndarray:
    """Return the numbers of items int [Q, T]: float32 [Q, T, G], NaN missing."""
    duration_ms = items.duration_ms[item]
    duration = np.where(duration_ms > 0, duration_ms / 1000, np.nan).astype(np.float32)
    own = [items.numeric[name][item] for name in watch_numeric(spec) if name != DURATION]
    numbers = np.stack([*own, duration], axis=-1)
    numbers[item == PADDING] = np.nan
    return numbers
