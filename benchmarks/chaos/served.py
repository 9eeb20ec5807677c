"""The server under trial, in a process of its own, and all that is known of its right answers."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.world import NUM_USERS, PAGE_SIZE, Answers, World
from benchmarks.load import TIMEOUT_SECONDS, Caller
from benchmarks.servers import Server
from benchmarks.serving import import_users
from recsys.bundle import Bundle
from recsys.recommender import Recommender
from recsys.state import UserState
from recsys.state_files import read_states
from recsys.verification import read_manifest
from serving.client import open_channel
from serving.v1 import admin_pb2, admin_pb2_grpc

HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Served:
    """A server under trial.

    Args:
        server: Its process.
        caller: Calls it, and looks at every answer.
        admin: Its admin service.
        faults: The file that breaks its stages.
        bundle_ids: Of the world's bundles, in order.
    """

    server: Server
    caller: Caller
    admin: admin_pb2_grpc.AdminServiceStub
    faults: Path
    bundle_ids: list[str]

    def activate(self, number: int) -> None:
        """Swap to a bundle.

        Raises:
            grpc.RpcError: It was refused.
        """
        request = admin_pb2.ActivateBundleRequest(bundle_id=self.bundle_ids[number])
        self.admin.ActivateBundle(request, timeout=60)

    def break_stages(self, faults: dict[str, str]) -> None:
        """Break these stages from now on, and no others."""
        scratch = self.faults.with_suffix(".new")
        scratch.write_text(json.dumps(faults))
        scratch.rename(self.faults)


@contextmanager
def served(world: World, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Served]:
    """Start a server of the world's first bundle, learn the answers of both, stop it in the end."""
    manifests = [read_manifest(directory) for directory in world.bundles]
    now = max(manifest["data_until"] for manifest in manifests) + HOUR_US
    with tempfile.TemporaryDirectory() as name:
        store, faults = Path(name) / "store", Path(name) / "faults.json"
        import_users(world.state, store)
        states = itertools.islice(read_states(world.state), NUM_USERS)
        seen = _seen(list(states), world)
        faults.write_text("{}")
        command = ["-m", "benchmarks.chaos.server", "--bundle", str(world.bundles[0])]
        command += ["--now", str(now), "--faults", str(faults)]
        core = min(os.sched_getaffinity(0))
        with (
            Server(command, store, Path(name) / "log", core) as server,
            open_channel(server.address, None) as channel,
        ):
            answers = Answers(server.address, seen)
            caller = Caller(
                server.address,
                sorted({user_id for _, user_id in seen}),
                page_size=PAGE_SIZE,
                check=answers.problem,
                timeout_seconds=timeout_seconds,
            )
            ids = [manifest["bundle_id"] for manifest in manifests]
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            under_trial = Served(server, caller, admin, faults, ids)
            for number in (1, 0):
                under_trial.activate(number)
                answers.learn()
            yield under_trial
            caller.close()


def _seen(states: list[UserState], world: World) -> dict[tuple[str, str], frozenset[str]]:
    """Return what each user has watched by the rule of each bundle, which goes by its items."""
    seen = {}
    for directory in world.bundles:
        recommender = Recommender(Bundle.load(directory))
        for state in states:
            watched = state.events.item_id[recommender.is_watch(state.events)]
            ids = (name.decode() for name in watched.tolist())
            seen[recommender.bundle_id, state.user_id] = state.seen.union(ids)
    return seen
