"""Trials of bundles: swapped under load, corrupted, published by a process that is killed."""

import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from benchmarks.chaos.served import served
from benchmarks.chaos.world import MIXED, SEEDS, World, settings_of
from benchmarks.fuzzing.bundles import copy_bundle, mutations
from benchmarks.load import Calls
from pipelines import make_bundle
from pipelines.paths import RunPaths
from pipelines.steps import run_step
from recsys.artefacts import MANIFEST, list_files
from recsys.bundle import Bundle
from recsys.errors import BundleError
from recsys.settings import RecsysSettings
from serving.v1 import admin_pb2

IN_FLIGHT = 4
QUIET_SECONDS = 5.0


def swaps(world: World, number: int) -> dict[str, Any]:
    """Swap bundles under load."""
    with served(world) as under_trial:
        quiet = under_trial.caller.closed(IN_FLIGHT, seconds=QUIET_SECONDS)
        loads: list[Calls] = []
        stop = threading.Event()

        def keep_calling() -> None:
            while not stop.is_set():
                loads.append(under_trial.caller.closed(IN_FLIGHT, seconds=1))

        load = threading.Thread(target=keep_calling)
        load.start()
        num_refused = 0
        for swap in range(number):
            try:
                under_trial.activate((swap + 1) % 2)
            except grpc.RpcError:
                num_refused += 1
        stop.set()
        load.join()
    errors = sum((Counter(calls.errors) for calls in loads), Counter())
    milliseconds = np.concatenate([calls.milliseconds[calls.is_answer] for calls in loads])
    return {
        "swaps": number,
        "swap_errors": num_refused + errors.total() - errors[MIXED],
        "mixed_answers": errors[MIXED],
        "requests": sum(len(calls) for calls in loads),
        "errors": dict(errors),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "p99_ms_without_swaps": quiet.percentile(99),
    }


def corruptions(world: World, number: int) -> dict[str, Any]:
    """Offer corrupted bundles to a server, whose good one has to go on answering."""
    good, aside = world.bundles[1], world.shelf.parent / "aside"
    names = [str(name) for name in list_files(good)]
    outcomes, meanwhile = Counter[str](), Counter[str]()
    with served(world) as under_trial:

        @seeded(0)
        @settings(
            max_examples=number,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(mutations(names))
        def offer(mutation: Any) -> None:
            corrupt = copy_bundle(good, world.shelf / "corrupt")
            mutation(corrupt)
            good.rename(aside)  # so that its id stands for the corrupted copy alone
            try:
                request = admin_pb2.ActivateBundleRequest(bundle_id=under_trial.bundle_ids[1])
                under_trial.admin.ActivateBundle(request, timeout=60)
                outcomes["accepted"] += 1
            except grpc.RpcError as error:
                outcomes[error.code().name] += 1
            finally:
                aside.rename(good)
                shutil.rmtree(corrupt)
            meanwhile.update(under_trial.caller.closed(1, number=3).errors)

        offer()
    return {
        "bundles": outcomes.total(),
        "corrupt_accepted": outcomes["accepted"],
        "outcomes": dict(outcomes),
        "errors_meanwhile": dict(meanwhile),
    }


def publisher_kills(world: World, number: int, seed: int = 0) -> dict[str, Any]:
    """Kill publishers of bundles at any moment; whatever bundle can be seen has to be whole."""
    rng = random.Random(seed)
    own, paths = settings_of(SEEDS[0]), RunPaths(world.runs[0])
    num_killed, partial = 0, list[str]()
    seen: set[Path] = set()
    with tempfile.TemporaryDirectory() as name:
        shelf = Path(name)
        started = time.monotonic()
        _publish(shelf / "first", own, paths)
        usual_seconds = time.monotonic() - started
        for attempt in itertools.count():
            if num_killed == number:
                break
            child = os.fork()
            if child == 0:
                _publish(shelf / f"bundle-{attempt}", own, paths)
                os._exit(0)
            end = time.monotonic() + rng.uniform(0, 1.1) * usual_seconds
            while time.monotonic() < end:
                _read_new(shelf, seen, partial)
            os.kill(child, signal.SIGKILL)
            num_killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            _read_new(shelf, seen, partial)
            shutil.rmtree(shelf / f"bundle-{attempt}", ignore_errors=True)
    return {
        "kills": num_killed,
        "published": len(seen),
        "partial_reads": len(partial),
        "problems": partial[:5],
    }


def _publish(target: Path, own: RecsysSettings, paths: RunPaths) -> None:
    run_step(target, {}, lambda to: make_bundle.main(own, paths, to), announce=lambda _: None)


def _read_new(shelf: Path, seen: set[Path], partial: list[str]) -> None:
    """Load every bundle that has appeared, where a server's listing looks for them."""
    for manifest in shelf.glob(f"*/{MANIFEST}"):
        if manifest.parent not in seen:
            seen.add(manifest.parent)
            try:
                Bundle.load(manifest.parent)
            except BundleError as error:
                partial.append(str(error))
