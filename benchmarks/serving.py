"""How fast a server answers: times, answers in time under load, processor time, memory, start.

    kuairand   to be shown: one call at a time takes at most 15 ms (p50), 40 (p99)
    million    to be shown: with a million items, ten times the answers within 50 ms of a server
               as in tutorials, and 2.5 times those of a plain good one (`peers/serving_nets.py`),
               whose nets are of the same shape, in a training of their own

    python -m benchmarks.serving --case kuairand --bundle runs/kuairand/bundle --json
    python -m benchmarks.serving --case million [--runs runs/benchmarks] [--json]

Each server in turn is a process on one core, the client another on another core. With each: calls
one at a time; a closed loop of 1 to 64 calls in flight; an open loop at shares of the closed loop's
best rate, each call with a deadline of 50 ms. "In time" is within 50 ms of the moment that a call
was due, undegraded, at the offered rate that is best for the server. With a server that never is,
best rates of the closed loop are compared, of both sides. Overload is three times that best rate,
each call with half a second: what share of the best rate is answered then. Users are drawn from the
state with replacement; each call has a request id of its own, but for the time of gRPC: there the
first answer is kept, so that all is measured but the making of it. After each server the same is
measured of one that has a single answer for everybody (`peers/bare_server.py`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Caller
from benchmarks.output import print_result
from benchmarks.servers import Server
from recsys.progress import track
from recsys.state_files import read_manifest_of_states, read_states
from serving.lmdb_store import LmdbStore

LIMIT_MS = 50.0
WARM_UP_SECONDS, SECONDS = 3.0, 8.0
IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
KEPT_IN_FLIGHT = 4
SHARES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Of the closed loop's best rate, offered in an open loop."""
OVERLOAD, PATIENCE_SECONDS = 3.0, 0.5
"""Times the best rate that is offered, to see what is left of it; deadline of those calls."""
PROTOCOL = (
    "client and server are two processes, a core each; a page of the bundle's default size; "
    "in time: within 50 ms, at the best offered rate"
)


def main() -> None:
    """Measure, and print the figures."""
    arguments = _parse_arguments()
    started = time.monotonic()
    bundle, state, sides = _sides(arguments)
    cores = sorted(os.sched_getaffinity(0))
    server_core = cores[0] if len(cores) > 1 else None
    if server_core is not None:
        os.sched_setaffinity(0, set(cores[1:2]))
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "store"
        user_ids = import_users(state, store)
        measured = {
            name: _measure(name, command, store, Path(directory), server_core, user_ids, arguments)
            for name, command in sides.items()
        }
    print_result(
        _figures(arguments.case, measured),
        as_json=arguments.json,
        started=started,
        protocol=PROTOCOL,
        bundle=bundle.name,
        users=len(user_ids),
        seed=arguments.seed,
        sides=measured,
    )


def _sides(arguments: argparse.Namespace) -> tuple[Path, Path, dict[str, list[str]]]:
    """Return bundle, state, and the command of each server."""
    if arguments.case == "kuairand":
        if arguments.bundle is None:
            raise SystemExit("--case kuairand: expected --bundle DIR; make it with `recsys run`")
        bundle = arguments.bundle
        return bundle, arguments.state or bundle.parent / "state", {"ours": _ours(bundle)}
    run = arguments.runs / "million"
    if not (
        run / "nets" / "tuned.json"
    ).exists():  # a process of its own: TensorFlow stays out of this
        command = [sys.executable, "-m", "benchmarks.million", str(run), "--peers"]
        subprocess.run(command, check=True)
    bundle = run / "bundle"
    peers = {name: _peer(name, bundle, run / "nets") for name in ("plain", "tutorial")}
    return bundle, run / "state", {"ours": _ours(bundle), **peers}


def _ours(bundle: Path) -> list[str]:
    return ["-m", "pipelines.cli", "serve", "--bundle", str(bundle)]


def _peer(name: str, bundle: Path, nets: Path) -> list[str]:
    where = ["--bundle", str(bundle), "--nets", str(nets)]
    return ["-m", "benchmarks.peers.serving_nets", name, *where]


def import_users(state_directory: Path, store_directory: Path) -> list[str]:
    """Load a state directory into a new store; return the ids of its users."""
    manifest = read_manifest_of_states(state_directory)
    user_ids = []
    store = LmdbStore(store_directory)

    def states():
        for state in track(read_states(state_directory), "import states", manifest["num_users"]):
            user_ids.append(state.user_id)
            yield state

    store.import_states(states(), manifest["data_until"])
    store.close()
    return user_ids


def _measure(
    name: str,
    command: Sequence[str],
    store: Path,
    logs: Path,
    core: int | None,
    user_ids: list[str],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Start a server, measure it, stop it; right after it, what gRPC alone takes."""
    with Server(command, store, logs / f"{name}.log", core) as server:
        caller = Caller(server.address, user_ids, arguments.seed)
        try:
            caller.closed(1, seconds=arguments.warm_up_seconds)
            figures = {
                "ready_seconds": server.ready_seconds,
                **_alone(caller, arguments.seconds),
                **_loaded(caller, arguments),
                **_processor(server, caller, arguments.seconds),
                "memory_mb": server.memory_mb(),
            }
        finally:
            caller.close()
    with Server(["-m", "benchmarks.peers.bare_server"], store, logs / "bare.log", core) as server:
        caller = Caller(server.address, user_ids, arguments.seed)
        caller.closed(KEPT_IN_FLIGHT, seconds=arguments.seconds / 4)
        bare_ms = _kept_cpu_ms(server, caller, arguments.seconds)
        caller.close()
    return figures | {"bare_grpc_cpu_ms": bare_ms}


def _alone(caller: Caller, seconds: float) -> dict[str, Any]:
    """Measure one call at a time."""
    calls = caller.closed(1, seconds=seconds)
    return {
        "p50_ms": calls.percentile(50),
        "p99_ms": calls.percentile(99),
        "max_ms": calls.percentile(100),
        "calls": len(calls),
        "errors": calls.errors,
    }


def _loaded(caller: Caller, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both loops."""
    closed = []
    for in_flight in IN_FLIGHT:
        calls = caller.closed(in_flight, seconds=arguments.seconds / 2)
        closed.append({"in_flight": in_flight, **_row(calls)})
    best = max(row["per_second"] for row in closed)
    opened = []
    for share in SHARES:
        calls = caller.open(share * best, arguments.seconds, timeout_seconds=LIMIT_MS / 1000)
        opened.append({"offered_per_second": share * best, **_row(calls)})
    in_time = max(row["in_time_per_second"] for row in opened)
    return {
        "answers_per_second": best,
        "in_time_per_second": in_time,
        "closed_loop": closed,
        "open_loop": opened,
        "overload": _flooded(caller, closed, arguments.seconds),
    }


def _flooded(caller: Caller, closed: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Measure overload, between two measurements of the best rate: a machine's speed changes."""
    in_flight = max(closed, key=lambda row: row["per_second"])["in_flight"]
    before = caller.closed(in_flight, seconds=seconds / 2).per_second
    flooded = caller.open(OVERLOAD * before, seconds, timeout_seconds=PATIENCE_SECONDS)
    after = caller.closed(in_flight, seconds=seconds / 2).per_second
    return {
        "in_flight_at_best": in_flight,
        "best_before_after": [before, after],
        "share": flooded.per_second / ((before + after) / 2),
        **_row(flooded),
    }


def _row(calls: Any) -> dict[str, Any]:
    return {
        "per_second": calls.per_second,
        "in_time_per_second": calls.per_second_within(LIMIT_MS),
        "p50_ms": calls.percentile(50),
        "p99_ms": calls.percentile(99),
        "errors": calls.errors,
    }


def _processor(server: Server, caller: Caller, seconds: float) -> dict[str, Any]:
    """Measure processor time: of a request, of what is not its making, and of each stage."""
    before, (ranked, stages) = server.cpu_seconds(), server.stage_seconds()
    calls = caller.closed(1, seconds=seconds)
    cpu_ms = 1000 * (server.cpu_seconds() - before) / len(calls)
    ranked_after, stages_after = server.stage_seconds()
    caller.closed(1, number=1, request_id="kept")
    number = max(ranked_after - ranked, 1)
    return {
        "cpu_ms": cpu_ms,
        "grpc_cpu_ms": _kept_cpu_ms(server, caller, seconds),
        "stage_ms": {
            stage: 1000 * (total - stages.get(stage, 0.0)) / number
            for stage, total in stages_after.items()
        },
    }


def _kept_cpu_ms(server: Server, caller: Caller, seconds: float) -> float:
    """Measure the processor time of a call to which the answer is there already."""
    before = server.cpu_seconds()
    kept = caller.closed(KEPT_IN_FLIGHT, seconds=seconds / 2, request_id="kept")
    return 1000 * (server.cpu_seconds() - before) / len(kept)


def _figures(case: str, measured: dict[str, dict[str, Any]]) -> dict[str, float]:
    ours = measured["ours"]
    figures = {
        f"{case}/p50_ms": ours["p50_ms"],
        f"{case}/p99_ms": ours["p99_ms"],
        f"{case}/overload_goodput_share": ours["overload"]["share"],
    }
    for name, peer in measured.items():
        if name != "ours":
            rate = "in_time_per_second" if peer["in_time_per_second"] else "answers_per_second"
            figures[f"{case}/{name}_ratio"] = ours[rate] / max(peer[rate], 1e-9)
    names = ("ready_seconds", "grpc_cpu_ms", "bare_grpc_cpu_ms")
    return figures | {name: ours[name] for name in names}


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--case", choices=["kuairand", "million"], default="kuairand")
    parser.add_argument("--bundle", type=Path, help="of the case kuairand")
    parser.add_argument("--state", type=Path, help="default: state/ beside the bundle")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each measurement")
    parser.add_argument("--warm-up-seconds", type=float, default=WARM_UP_SECONDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
