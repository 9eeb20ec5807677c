"""Claim: one call at a time from a second process, an answer takes at most 15 ms (p50), 40 (p99).

    python -m benchmarks.serving --case kuairand --bundle runs/kuairand/bundle --json

Starts the real server (`recsys serve`) in a process of its own on a free loopback port, with the
users' states imported into a fresh store, asks for a page for users drawn from the state with
replacement, each call with a request id of its own, and stops the server.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.output import print_result
from pipelines.demo import serve_bundle
from recsys.progress import track
from recsys.state_files import read_manifest_of_states, read_states
from serving.client import RecommenderClient
from serving.lmdb_store import LmdbStore

WARM_UP_CALLS = 50
PROTOCOL = (
    "one call in flight; client and server are two processes on this machine; page of the "
    f"bundle's default size; first {WARM_UP_CALLS} calls not counted"
)


def main() -> None:
    """Measure, and print the figures."""
    arguments = _parse_arguments()
    started = time.monotonic()
    state_directory = arguments.state or arguments.bundle.parent / "state"
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "store"
        user_ids = import_users(state_directory, store)
        rng = random.Random(arguments.seed)
        asked = rng.choices(user_ids, k=WARM_UP_CALLS + arguments.calls)
        with serve_bundle(arguments.bundle, store) as (address, ready_line):
            print(ready_line)
            seconds, num_items, num_degraded = time_calls(address, asked)
    milliseconds = 1000 * np.array(seconds[WARM_UP_CALLS:])
    figures = {
        f"{arguments.case}/p50_ms": float(np.percentile(milliseconds, 50)),
        f"{arguments.case}/p99_ms": float(np.percentile(milliseconds, 99)),
        f"{arguments.case}/mean_ms": float(milliseconds.mean()),
        f"{arguments.case}/max_ms": float(milliseconds.max()),
    }
    print_result(
        figures,
        as_json=arguments.json,
        started=started,
        protocol=PROTOCOL,
        calls=arguments.calls,
        users=len(user_ids),
        items_per_answer=num_items / len(asked),
        degraded_answers=num_degraded,
        seed=arguments.seed,
    )


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


def time_calls(address: str, user_ids: list[str]) -> tuple[list[float], int, int]:
    """Ask for a page for each user; return seconds by call, items and degraded answers in all."""
    seconds, num_items, num_degraded = [], 0, 0
    with RecommenderClient(address, timeout_seconds=10) as client:
        client.wait_until_connected(10)
        for user_id in user_ids:
            started = time.perf_counter()
            answer = client.recommend_items(user_id)
            seconds.append(time.perf_counter() - started)
            num_items += len(answer.items)
            num_degraded += bool(answer.degraded_stages)
    return seconds, num_items, num_degraded


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--case", choices=["kuairand"], default="kuairand")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="default: state/ beside the bundle")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
