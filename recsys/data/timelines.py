"""Users' events in catalogue rows, as the features see them: one layout for log and server.

Prepared shards and served requests are both turned into `Timelines`, and everything computed
from a user's past takes one. Moments are microseconds since the epoch, or sequence numbers for
events that know only their order (`has_time` false); these lie before all timed ones.
"""

from dataclasses import dataclass, fields

import numpy as np

from recsys.data.as_of import AsOf

UNKNOWN = -1
MICROSECONDS_PER_SECOND = 1_000_000


@dataclass(frozen=True)
class Timelines:
    """Events of U users, user after user, each user's by event moment.

    Args:
        offsets: int64 [U + 1]; user u owns events `offsets[u]:offsets[u + 1]`.
        item: int32 [E], catalogue row, -1 for an item that the catalogue does not know.
        moment: int64 [E], when the impression (or the watch from elsewhere) began.
        outcome_moment: int64 [E], when its click and watch time became known.
        has_time: bool [E], whether the moments are times.
        watch_ms: int64 [E], -1 unknown.
        clicked: int8 [E], -1 unknown.
        is_impression: bool [E], false for a watch that came from elsewhere.
        is_watch: bool [E], a positive watch by the configured rule.
    """

    offsets: np.ndarray
    item: np.ndarray
    moment: np.ndarray
    outcome_moment: np.ndarray
    has_time: np.ndarray
    watch_ms: np.ndarray
    clicked: np.ndarray
    is_impression: np.ndarray
    is_watch: np.ndarray

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    def user_of_event(self) -> np.ndarray:
        """Return the user of each event: int64 [E]."""
        return np.repeat(np.arange(self.num_users), np.diff(self.offsets))

    def of_users(self, start: int, end: int) -> "Timelines":
        """Return the events of the users from `start` up to `end`, who are then 0 and up."""
        return Timelines(**_of_users(self.arrays(), start, end))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, to be saved."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class WatchHistories:
    """The positive, trained watches of U users, each user's by outcome moment.

    Args:
        offsets: int64 [U + 1].
        code: int32 [W], embedding code of the item (trained row + 1, never 0).
        moment: int64 [W], the outcome moment: a watch is known strictly after it.
    """

    offsets: np.ndarray
    code: np.ndarray
    moment: np.ndarray

    def of_users(self, start: int, end: int) -> "WatchHistories":
        """Return the watches of the users from `start` up to `end`, who are then 0 and up."""
        return WatchHistories(**_of_users(vars(self), start, end))

    def known_before(self, users: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Return how many of a user's watches are known at a moment: int64 [Q]."""
        owner = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return AsOf(owner, self.moment, users, moments).counts()

    def newest(self, users: np.ndarray, known: np.ndarray, length: int) -> np.ndarray:
        """Return the newest known watches, oldest first, padded on the right with 0.

        Args:
            users: int64 [Q].
            known: int64 [Q], how many watches of the user are known.
            length: Columns of the result.

        Returns:
            int32 [Q, length].
        """
        return self._newest(self.code, users, known, length).astype(np.int32)

    def newest_seconds(self, users: np.ndarray, known: np.ndarray, length: int) -> np.ndarray:
        """Return when the watches of `newest` were, in seconds before the last of them.

        Returns:
            float32 [Q, length], 0 for padding.
        """
        moments = self._newest(self.moment, users, known, length)
        last = moments.max(axis=1, initial=0)[:, None]
        seconds = (moments - last) / MICROSECONDS_PER_SECOND
        return np.where(moments == 0, 0, seconds).astype(np.float32)

    def newest_code(self, users: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the code of the newest known watch of users, 0 for none: int32 [...]."""
        return np.where(known > 0, self._at_newest(self.code, users, known), 0).astype(np.int32)

    def newest_moment(self, users: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the moment of the newest known watch of users, 0 for none: int64 [...]."""
        return np.where(known > 0, self._at_newest(self.moment, users, known), 0)

    def _at_newest(self, values: np.ndarray, users: np.ndarray, known: np.ndarray) -> np.ndarray:
        if len(values) == 0:
            return np.zeros(np.shape(users), values.dtype)
        position = self.offsets[users] + np.maximum(known, 1) - 1
        return values[np.minimum(position, len(values) - 1)]

    def _newest(
        self, values: np.ndarray, users: np.ndarray, known: np.ndarray, length: int
    ) -> np.ndarray:
        taken = np.minimum(known, length)[:, None]
        column = np.arange(length)
        first = self.offsets[users][:, None] + known[:, None] - taken
        inside = column < taken
        positions = np.where(inside, first + column, 0)
        if len(values) == 0:
            return np.zeros(positions.shape, values.dtype)
        return np.where(inside, values[positions], 0)


def watch_histories(timelines: Timelines, num_trained: int) -> WatchHistories:
    """Pick the positive watches of trained items, ordered by when they became known."""
    user = timelines.user_of_event()
    item = timelines.item
    chosen = np.flatnonzero(timelines.is_watch & (item >= 0) & (item < num_trained))
    order = np.lexsort((timelines.outcome_moment[chosen], user[chosen]))
    chosen = chosen[order]
    counts = np.bincount(user[chosen], minlength=timelines.num_users)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    code = (item[chosen] + 1).astype(np.int32)
    return WatchHistories(offsets, code, timelines.outcome_moment[chosen])


def _of_users(columns: dict[str, np.ndarray], start: int, end: int) -> dict[str, np.ndarray]:
    offsets = columns["offsets"][start : end + 1]
    own = slice(int(offsets[0]), int(offsets[-1]))
    parts = {name: values[own] for name, values in columns.items()}
    return {**parts, "offsets": offsets - offsets[0]}
