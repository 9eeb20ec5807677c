"""Candidates from elsewhere than the candidate net: what it cannot know, or does not look for.

Each source says of every user of a batch which eligible items it would bring, with a score of its
own that orders its finds and is comparable with no other's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.bundle import Bundle
from recsys.candidates.co_visits import CoVisits
from recsys.data.columns import integers
from recsys.data.examples import ITEM_COUNTERS
from recsys.eligibility import Eligibility, Restrictions
from recsys.errors import BundleError
from recsys.recent_watches import RecentWatches
from recsys.user_views import UserViews

NUM_NEWEST = 10
"""Watches of a user that their neighbours and channels are taken of, beside the current item."""
NUM_OF_CHANNEL = 100
"""Items of a channel that are looked at, the most watched."""
FETCH = 512
"""Items that are looked at first where many more may be, the best of them."""
MICROSECONDS_PER_DAY = 86_400_000_000
NEVER = -1


@dataclass(frozen=True)
class Finds:
    """What a source brings for one user, best first.

    Args:
        rows: int32 [n], catalogue rows, each once.
        scores: float32 [n].
    """

    rows: np.ndarray
    scores: np.ndarray


class CandidateSource(Protocol):
    """Finds candidates of users."""

    def find(
        self, users: UserViews, restrictions: Sequence[Restrictions], quota: int
    ) -> list[Finds]:
        """Return at most `quota` eligible items for each of Q users; none is no failure."""
        ...


class CoVisitation:
    """What others watched near the user's newest watches."""

    def __init__(self, co_visits: CoVisits, eligibility: Eligibility) -> None:
        self._co_visits, self._eligibility = co_visits, eligibility

    def find(
        self, users: UserViews, restrictions: Sequence[Restrictions], quota: int
    ) -> list[Finds]:
        """Add the similarities up, those of newer watches with more weight."""
        watched = newest_watches(users, restrictions)
        known = (watched >= 0) & (watched < len(self._co_visits.rows))
        row = np.where(known, watched, 0)
        neighbours = np.where(known[..., None], self._co_visits.rows[row], NEVER)  # [Q, M, K]
        similarity = self._co_visits.similarity[row] * _weights(watched)[:, None]
        return [
            _best_eligible(self._eligibility, *_added_up(*each), limit, quota)
            for *each, limit in zip(neighbours, similarity, restrictions, strict=True)
        ]


class RecentPopularity:
    """What all users watch lately."""

    def __init__(self, watches: RecentWatches, eligibility: Eligibility) -> None:
        self._watches, self._eligibility = watches, eligibility

    def find(
        self, users: UserViews, restrictions: Sequence[Restrictions], quota: int
    ) -> list[Finds]:
        """Take the items of the largest weights."""
        rows, weights = self._watches.best()
        return [self._best(rows, weights, limit, quota) for limit in restrictions]

    def _best(
        self, rows: np.ndarray, weights: np.ndarray, limit: Restrictions, quota: int
    ) -> Finds:
        finds = _best_eligible(self._eligibility, rows[:FETCH], weights[:FETCH], limit, quota)
        if len(finds.rows) < quota and len(rows) > FETCH:
            return _best_eligible(self._eligibility, rows, weights, limit, quota)
        return finds


class SameChannel:
    """The most watched items of the channels of the user's newest watches.

    Args:
        channel: int32 [N], -1 none.
        num_channels: How many there are.
        watches: int64 [N], of each item.
        eligibility: What may be returned.
    """

    def __init__(
        self, channel: np.ndarray, num_channels: int, watches: np.ndarray, eligibility: Eligibility
    ) -> None:
        self._channel, self._eligibility = channel, eligibility
        order = np.lexsort((-watches, channel))
        self._items = order
        self._offsets = np.searchsorted(channel[order], np.arange(num_channels + 1))

    def find(
        self, users: UserViews, restrictions: Sequence[Restrictions], quota: int
    ) -> list[Finds]:
        """Weigh a channel by how newly it was watched, its items by their places in it."""
        watched = newest_watches(users, restrictions)
        channels = np.where(watched >= 0, self._channel[watched], NEVER)
        weights = np.broadcast_to(_weights(watched), channels.shape)
        return [
            _best_eligible(self._eligibility, *self._items_of(*each), limit, quota)
            for *each, limit in zip(channels, weights, restrictions, strict=True)
        ]

    def _items_of(self, channels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted, weight = _added_up(channels, weights)
        place = np.arange(NUM_OF_CHANNEL)
        position = self._offsets[wanted][:, None] + place
        inside = position < self._offsets[wanted + 1][:, None]
        score = weight[:, None] / (1 + place)
        return self._items[position[inside]], score[inside]


class NewItems:
    """The newest items: what nobody has watched yet has to be shown to somebody.

    Args:
        started: int64 [N], when each item was uploaded or became available, whichever came later;
            -1 unknown.
        max_age_us: Older items are not new.
        eligibility: What may be returned.
    """

    def __init__(self, started: np.ndarray, max_age_us: int, eligibility: Eligibility) -> None:
        self._max_age_us, self._eligibility = max_age_us, eligibility
        known = np.flatnonzero(started != NEVER)
        self._rows = known[np.argsort(started[known], kind="stable")]
        self._started = started[self._rows]

    def find(
        self, users: UserViews, restrictions: Sequence[Restrictions], quota: int
    ) -> list[Finds]:
        """Take the newest, with their age in seconds, below zero, as the score."""
        return [self._newest(limit, quota) for limit in restrictions]

    def _newest(self, limit: Restrictions, quota: int) -> Finds:
        end = int(np.searchsorted(self._started, limit.now, side="right"))
        start = int(np.searchsorted(self._started, limit.now - self._max_age_us))
        finds = self._of(slice(max(start, end - FETCH), end), limit, quota)
        if len(finds.rows) < quota and start < end - FETCH:
            return self._of(slice(start, end), limit, quota)
        return finds

    def _of(self, new: slice, limit: Restrictions, quota: int) -> Finds:
        scores = (self._started[new] - limit.now) / 1e6
        return _best_eligible(self._eligibility, self._rows[new], scores, limit, quota)


def open_sources(
    bundle: Bundle, eligibility: Eligibility, recent_watches: RecentWatches | None
) -> dict[str, CandidateSource]:
    """Return the sources that the settings switch on, by name.

    Args:
        bundle: With the arrays that they need.
        eligibility: What may be returned.
        recent_watches: Told of the events that the server receives; of `recent_popularity`.

    Raises:
        BundleError: The bundle lacks what a source needs.
    """
    settings, items = bundle.settings.serving.sources, bundle.item_features
    sources: dict[str, CandidateSource] = {}
    for name in settings.quotas():
        if name == "co_visitation" and bundle.co_visits is not None:
            sources[name] = CoVisitation(bundle.co_visits, eligibility)
        elif name == "recent_popularity" and recent_watches is not None:
            sources[name] = RecentPopularity(recent_watches, eligibility)
        elif name == "same_channel":
            watches = np.asarray(bundle.item_counters)[:, ITEM_COUNTERS.index("watches")]
            sources[name] = SameChannel(items.channel, items.num_channels, watches, eligibility)
        elif name == "new_items":
            max_age_us = round(settings.new_item_days * MICROSECONDS_PER_DAY)
            sources[name] = NewItems(_started(bundle), max_age_us, eligibility)
        else:
            raise BundleError(
                f"bundle {bundle.bundle_id}: expected the arrays of its candidate source {name!r}, "
                f"found none; make the bundle anew"
            )
    return sources


def newest_watches(users: UserViews, restrictions: Sequence[Restrictions]) -> np.ndarray:
    """Return the current item of each user, then their newest watches, from the newest on.

    Returns:
        int64 [Q, 1 + `NUM_NEWEST`], catalogue rows, -1 for none.
    """
    everybody, histories = np.arange(len(users.moment)), users.watches
    known = histories.known_before(everybody, users.moment)
    oldest_first = histories.newest(everybody, known, NUM_NEWEST).astype(np.int64) - 1
    column = np.minimum(known, NUM_NEWEST)[:, None] - 1 - np.arange(NUM_NEWEST)
    newest = np.take_along_axis(oldest_first, np.maximum(column, 0), axis=1)
    current = np.array([limit.current for limit in restrictions], np.int64)
    return np.column_stack([current, np.where(column >= 0, newest, NEVER)])


def _started(bundle: Bundle) -> np.ndarray:
    available = integers(bundle.catalogue.table, "available_from", NEVER)
    return np.maximum(np.asarray(bundle.item_features.upload_time), available)


def _weights(watched: np.ndarray) -> np.ndarray:
    """Return 1, 1/2, 1/3 ... from the newest watch on: [M]."""
    return 1 / (1 + np.arange(watched.shape[1]))


def _added_up(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add the values of equal keys, -1 left out: keys ascending [n], their sums [n]."""
    known = keys >= 0
    distinct, number = np.unique(keys[known], return_inverse=True)
    return distinct, np.bincount(number, values[known], len(distinct))


def _best_eligible(
    eligibility: Eligibility,
    rows: np.ndarray,
    scores: np.ndarray,
    restrictions: Restrictions,
    quota: int,
) -> Finds:
    """Keep what may be returned; of equal scores the smaller row first."""
    kept = np.flatnonzero(eligibility.reasons(rows, restrictions) == 0)
    best = kept[np.lexsort((rows[kept], -scores[kept]))[:quota]]
    return Finds(rows[best].astype(np.int32), scores[best].astype(np.float32))
