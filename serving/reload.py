"""Which bundle answers whom: loading, warming, swapping, going back and trying, without a gap.

A request takes `of_user` once, so its whole answer comes from one bundle. Recorded events reach
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
from recsys.experiment.assignment import Split
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.state import UserEvents, UserState
from recsys.state_files import state_from_json
from recsys.verification import read_manifest
from serving.counting import Counting
from serving.event_log import NO_REQUESTS, Recorded
from serving.merging import StoredSearch
from serving.metrics import Metrics
from serving.status import NotFoundError, NotReadyError, PreconditionError
from serving.store import StateStore
from serving.trials import Trial

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
    """The active bundle, the one before it, those on trial, and where they come from.

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
        self._canary: Trial | None = None
        self._shadow: Trial | None = None
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

    def of_user(self, user_id: str) -> Recommender:
        """Return the recommender that answers a user: the canary's, or the active one's.

        Raises:
            NotReadyError: None is loaded yet.
        """
        canary = self._canary
        return canary.recommender if canary and canary.takes(user_id) else self.current()

    @property
    def shadow(self) -> Trial | None:
        """The bundle that only computes, if there is one."""
        return self._shadow

    def roles(self) -> dict[str, tuple[str, float]]:
        """Return what the loaded bundles are for, and their share of users or requests."""
        found = {each.bundle_id: ("previous", 0.0) for each in [self._previous] if each}
        for kind, trial in (("shadow", self._shadow), ("canary", self._canary)):
            if trial is not None:
                found[trial.recommender.bundle_id] = (kind, trial.share)
        if self._active is not None:
            share = self._canary.share if self._canary else 0.0
            found[self._active.bundle_id] = ("active", 1 - share)
        return found

    def activate_directory(self, directory: Path) -> Recommender:
        """Load and warm a bundle, then answer from it; on an error the old one goes on."""
        with self._swapping:
            started = time.perf_counter()
            fresh = self._load_warm(directory)
            self._forget_old_events(fresh)
            self._swap(fresh)
            self._shelf = directory.resolve().parent
            seconds = time.perf_counter() - started
            self._metrics.show_bundle(fresh.bundle_id, fresh.data_until, seconds)
            return fresh

    def activate(self, bundle_id: str) -> Recommender:
        """Activate a bundle of those in `listing`."""
        return self.activate_directory(self._directory_of(bundle_id))

    def start_canary(self, directory: Path, split: Split) -> Recommender:
        """Let a bundle answer a share of the users; on an error all goes on as it was."""
        with self._swapping:
            trial = self._new_trial(directory, split, self._canary)
            self._canary = trial
            self._keep_loaded()
            return trial.recommender

    def start_shadow(self, directory: Path, split: Split) -> Recommender:
        """Let a bundle compute a share of the answers again; on an error all goes on as it was."""
        with self._swapping:
            trial = self._new_trial(directory, split, self._shadow)
            self._shadow = trial
            self._keep_loaded()
            return trial.recommender

    def start_canary_of(self, bundle_id: str, split: Split) -> Recommender:
        """Start a canary of a bundle of those in `listing`."""
        return self.start_canary(self._directory_of(bundle_id), split)

    def start_shadow_of(self, bundle_id: str, split: Split) -> Recommender:
        """Start a shadow of a bundle of those in `listing`."""
        return self.start_shadow(self._directory_of(bundle_id), split)

    def stop_canary(self) -> Recommender:
        """Let the active bundle answer all users again; return it."""
        with self._swapping:
            self._running_canary()
            self._canary = None
            self._keep_loaded()
            return self.current()

    def stop_shadow(self) -> Recommender:
        """Let nothing be computed twice; return the active bundle."""
        with self._swapping:
            if self._shadow is None:
                raise PreconditionError("no shadow runs; StartShadow starts one")
            self._shadow = None
            self._keep_loaded()
            return self.current()

    def promote_canary(self) -> Recommender:
        """Let the canary answer all users, as the active bundle; RollbackBundle goes back."""
        with self._swapping:
            fresh = self._running_canary().recommender
            self._swap(fresh)
            self._metrics.show_bundle(fresh.bundle_id, fresh.data_until, 0.0)
            return fresh

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
        # What is active is on trial no longer.
        if self._canary and self._canary.recommender.bundle_id == fresh.bundle_id:
            self._canary = None
        if self._shadow and self._shadow.recommender.bundle_id == fresh.bundle_id:
            self._shadow = None
        self._keep_loaded()

    def _new_trial(self, directory: Path, split: Split, running: Trial | None) -> Trial:
        """Load a bundle for a trial; one that runs already only gets the new share."""
        bundle_id = read_manifest(directory)["bundle_id"]
        if bundle_id == self.current().bundle_id:
            raise PreconditionError(f"bundle_id: {bundle_id!r} is the active one; try another")
        if running is not None and running.recommender.bundle_id == bundle_id:
            return Trial(running.recommender, split)
        fresh = self._load_warm(directory)
        self.counting.add(fresh)
        self._metrics.bundles.show(bundle_id)
        return Trial(fresh, split)

    def _running_canary(self) -> Trial:
        if self._canary is None:
            raise PreconditionError("no canary runs; StartCanary starts one")
        return self._canary

    def _keep_loaded(self) -> None:
        """Count for the bundles that are in use, and show the trials."""
        trials = {"canary": self._canary, "shadow": self._shadow}
        running = {kind: trial for kind, trial in trials.items() if trial is not None}
        used = [self._active, self._previous, *(each.recommender for each in running.values())]
        self.counting.keep_only(each for each in used if each is not None)
        self._metrics.bundles.show_trials(
            {(kind, trial.recommender.bundle_id): trial.share for kind, trial in running.items()}
        )

    def _load_warm(self, directory: Path) -> Recommender:
        fresh = self._load(directory)
        self._warm(fresh, directory)
        return fresh

    def _directory_of(self, bundle_id: str) -> Path:
        directories = {found: directory for found, _, directory in self._directories()}
        if bundle_id not in directories:
            raise NotFoundError(
                f"bundle_id: {bundle_id!r} is not on this server; ListBundles says which are"
            )
        return directories[bundle_id]

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
