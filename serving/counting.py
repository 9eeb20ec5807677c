"""Keeps the item counters of loaded bundles up with the log of a store, whoever writes to it.

What this process records is counted at once. What others record in the same store is counted by
`follow`, which is called every second or so. Each bundle has a position: the number of the last
change of the log that its counters hold. One without is counted anew from the log: a bundle just
loaded, one that fell too far behind, and all after a record of which nobody knows whether it was
stored.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from recsys.errors import StateError
from recsys.recommender import Recommender
from recsys.state import UserEvents
from serving.event_log import NO_REQUESTS, Recorded
from serving.merging import StoredSearch
from serving.store import StateStore, UnsureStateError


class Counting:
    """The counters of the loaded bundles.

    Args:
        store: Where recorded events are.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._positions: dict[Recommender, int | None] = {}

    def record(
        self,
        user_id: str,
        events: UserEvents,
        searches: Sequence[StoredSearch],
        request_ids: Mapping[bytes, str] = NO_REQUESTS,
        *,
        judge: Recommender,
    ) -> Recorded:
        """Store events, and count them.

        Args:
            user_id, events, searches, request_ids: As `StateStore.record` takes them.
            judge: Tells what is a positive watch.

        Raises:
            StateError: They may be stored or not; repeating does no harm.
        """
        with self._lock:
            try:
                recorded = self._store.record(
                    user_id, events, searches, is_watch=judge.is_watch, request_ids=request_ids
                )
            except UnsureStateError:
                self._forget_positions()
                raise
            self._count(recorded.replaced, recorded.added)
        return recorded

    def delete(self, user_id: str) -> bool:
        """Forget a user and take their events out of the counters; return whether there was one."""
        with self._lock:
            try:
                forgotten = self._store.delete(user_id)
            except UnsureStateError:
                self._forget_positions()
                raise
            if forgotten is not None:
                self._count(forgotten, UserEvents.empty())
        return forgotten is not None

    def add(self, recommender: Recommender) -> None:
        """Count the log for a bundle, and go on with it; with a broken store, once it is mended."""
        # No event may fall between reading the log and going on: recording waits meanwhile.
        with self._lock:
            if recommender not in self._positions:
                self._positions[recommender] = None
                with suppress(StateError):
                    self._count_anew(recommender)

    def keep_only(self, recommenders: Iterable[Recommender]) -> None:
        """Leave the counters of all other bundles as they are."""
        kept = set(recommenders)
        with self._lock:
            for gone in self._positions.keys() - kept:
                del self._positions[gone]

    def follow(self) -> None:
        """Count what others recorded since the last time.

        Raises:
            StateError: The store cannot be read; nothing is lost by that.
        """
        with self._lock:
            for recommender, position in self._positions.items():
                changes = None if position is None else self._store.changes_after(position)
                if changes is None:
                    self._count_anew(recommender)
                    continue
                recommender.count_events(changes.replaced, sign=-1)
                recommender.count_events(changes.added)
                self._positions[recommender] = changes.position

    def _count(self, replaced: UserEvents, added: UserEvents) -> None:
        for recommender, position in self._positions.items():
            if position is not None:
                recommender.count_events(replaced, sign=-1)
                recommender.count_events(added)

    def _count_anew(self, recommender: Recommender) -> None:
        self._positions[recommender] = None
        with self._store.read_log(recommender.data_until) as log:
            recommender.recount_events(batch.events for batch in log.batches)
            self._positions[recommender] = log.position

    def _forget_positions(self) -> None:
        for recommender in self._positions:
            self._positions[recommender] = None
