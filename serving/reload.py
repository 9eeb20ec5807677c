"""Which bundle answers: loading, warming, swapping and going back, without a gap.

A request takes `current()` once, so its whole answer comes from one bundle. Recorded events reach
the counters of all loaded bundles (`serving.counting`).
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recsys.artefacts import MANIFEST
from recsys.bundle import Bundle
from recsys.errors import BundleError, StateError
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.state import UserEvents, UserState
from recsys.state_files import state_from_json
from recsys.verification import read_manifest
from serving.counting import Counting
from serving.merging import StoredSearch
from serving.metrics import Metrics
from serving.status import NotFoundError, NotReadyError, PreconditionError
from serving.store import NO_REQUESTS, Recorded, StateStore

Load = Callable[[Path], Recommender]
EVENT_LOG_SECONDS = 30 * 86_400
"""Events so much older than a bundle's data_until are dropped from the log when it is loaded, so
going back to a bundle is exact for as long."""


def load_recommender(
    directory: Path, *, trusted_keys: Sequence[Ed25519PublicKey] = ()
) -> Recommender:
    """Verify and load the bundle in a directory.

    Args:
        directory: The bundle.
        trusted_keys: Demand a signature by one of them.

    Raises:
        BundleError: It is broken, altered, of another format, or not signed as demanded.
    """
    bundle = Bundle.load(directory, trusted_keys=trusted_keys)
    try:
        return Recommender(bundle)
    except Exception as error:  # unsigned, its arrays may hold anything
        raise BundleError(f"{directory}: cannot be served: {error!r}; make it anew") from error


class Bundles:
    """The active bundle, the one before it, and the directories they come from.

    Args:
        store: Where recorded events are.
        metrics: Told which bundle is active.
        clock: Returns microseconds since the epoch.
        load: Makes a recommender of a bundle's directory.
    """

    def __init__(
        self,
        store: StateStore,
        metrics: Metrics,
        clock: Callable[[], int],
        load: Load = load_recommender,
    ) -> None:
        self._store, self._metrics, self._clock, self._load = store, metrics, clock, load
        self._active: Recommender | None = None
        self._previous: Recommender | None = None
        self._shelf: Path | None = None
        self._swapping = threading.Lock()
        self.counting = Counting(store)

    def current(self) -> Recommender:
        """Return the recommender of the active bundle.

        Raises:
            NotReadyError: None is loaded yet.
        """
        if self._active is None:
            raise NotReadyError("no bundle is loaded yet; try again in a moment")
        return self._active

    def activate_directory(self, directory: Path) -> Recommender:
        """Load and warm a bundle, then answer from it; on an error the old one goes on."""
        with self._swapping:
            started = time.perf_counter()
            fresh = self._load(directory)
            self._warm(fresh, directory)
            self._forget_old_events(fresh)
            self._swap(fresh)
            self._shelf = directory.resolve().parent
            seconds = time.perf_counter() - started
            self._metrics.show_bundle(fresh.bundle_id, fresh.data_until, seconds)
            return fresh

    def activate(self, bundle_id: str) -> Recommender:
        """Activate a bundle of those in `listing`."""
        directories = {found: directory for found, _, directory in self._directories()}
        if bundle_id not in directories:
            raise NotFoundError(
                f"bundle_id: {bundle_id!r} is not on this server; ListBundles says which are"
            )
        return self.activate_directory(directories[bundle_id])

    def roll_back(self) -> Recommender:
        """Answer from the bundle before the last swap again; it is still loaded and warm."""
        with self._swapping:
            if self._previous is None:
                raise PreconditionError("no bundle answered before this one; activate one instead")
            self._swap(self._previous)
            back = self.current()
            self._metrics.show_bundle(back.bundle_id, back.data_until, 0.0)
            return back

    def listing(self) -> list[tuple[str, int]]:
        """Return id and data_until of the bundles beside the active one, by id."""
        return sorted({found: until for found, until, _ in self._directories()}.items())

    def record(
        self,
        user_id: str,
        events: UserEvents,
        searches: Sequence[StoredSearch],
        request_ids: Mapping[bytes, str] = NO_REQUESTS,
    ) -> Recorded:
        """Store events, and count them for all loaded bundles."""
        recorded = self.counting.record(
            user_id, events, searches, request_ids, judge=self.current()
        )
        self._metrics.count_events(recorded.num_new, recorded.num_changed)
        return recorded

    def delete_user(self, user_id: str) -> None:
        """Forget a user, and take their events out of the counters.

        Raises:
            NotFoundError: Nothing was known of them.
        """
        if not self.counting.delete(user_id):
            raise NotFoundError("user_id: nothing is stored of this user")

    def _swap(self, fresh: Recommender) -> None:
        self.counting.add(fresh)
        self._previous, self._active = self._active, fresh
        self.counting.keep_only(each for each in (self._active, self._previous) if each)

    def _forget_old_events(self, fresh: Recommender) -> None:
        with suppress(StateError):  # the next bundle does it
            self._store.forget_events_before(fresh.data_until - EVENT_LOG_SECONDS * 1_000_000)

    def _warm(self, recommender: Recommender, directory: Path) -> None:
        try:
            users = [state_from_json(value) for value in recommender.bundle.warmup_users]
            for user in users or [UserState("")]:
                recommender.recommend([Request(user=user, now=self._clock())])
        except Exception as error:  # as above
            raise BundleError(
                f"{directory}: cannot answer its warm-up users: {error!r}; make it anew"
            ) from error

    def _directories(self) -> list[tuple[str, int, Path]]:
        found = []
        for manifest in sorted(self._shelf.glob(f"*/{MANIFEST}")) if self._shelf else []:
            try:
                content = read_manifest(manifest.parent)
            except BundleError:
                continue  # something else lies there, or a format that cannot be served
            found.append((content["bundle_id"], content["data_until"], manifest.parent))
        return found
