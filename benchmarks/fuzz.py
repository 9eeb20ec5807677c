"""Claim: no bytes and no bundle bring the server down, or out of what its API promises.

    python -m benchmarks.fuzz --bundle runs/demo/bundle --minutes 10 --json

Requests go to a real server with the bundle, over loopback: each has to get a valid answer, with
no stage degraded, or a refusal with its details. Bundles are tampered with, and each has to be
refused by name, or to load and answer. Ends at the first that breaks this, with the smallest
example that still does.
"""

import argparse
import io
import itertools
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.strategies import SearchStrategy

from benchmarks.fuzzing import bundles, requests
from benchmarks.output import print_result
from recsys.artefacts import list_files
from recsys.verification import sign_bundle
from serving.server import RecsysServer, ServerOptions, new_logger
from serving.store import MemoryStore

EXAMPLE_SECONDS = 20
"""None takes a second; longer than this it hangs."""
EXAMPLES_AT_ONCE = 300
PROTOCOL = "examples drawn by hypothesis, kinds in turn, until the time is over"


def main() -> None:
    """Fuzz for the given time, and print how many examples ended how."""
    arguments = _parse_arguments()
    started = time.monotonic()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, serve(arguments.bundle) as channel:
        for seed in itertools.count(arguments.seed):
            counts += fuzz_requests(channel, EXAMPLES_AT_ONCE, seed=seed)
            for fuzz in (fuzz_files, fuzz_manifests, fuzz_sealed, fuzz_signed):
                counts += fuzz(arguments.bundle, Path(folder), EXAMPLES_AT_ONCE // 10, seed=seed)
            if time.monotonic() - started > 60 * arguments.minutes:
                break
    figures = {f"fuzz/{name}": float(count) for name, count in sorted(counts.items())}
    print_result(
        figures, as_json=arguments.json, started=started, protocol=PROTOCOL, seed=arguments.seed
    )


@contextmanager
def serve(bundle: Path) -> Iterator[grpc.Channel]:
    """Serve a bundle, admin methods too, within this process; give a channel to it."""
    options = ServerOptions(port=0, admin=True)
    server = RecsysServer(MemoryStore(), options, logger=new_logger(io.StringIO()))
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
    try:
        server.make_ready(bundle)
        yield channel
    finally:
        channel.close()
        server.stop()


def fuzz_requests(channel: grpc.Channel, num_examples: int, *, seed: int) -> Counter[str]:
    """Call any method with any bytes; return the number of each status."""

    def check(drawn: Any) -> str:
        return requests.call(channel, *drawn)

    return _run("request", requests.calls(), check, num_examples, seed)


def fuzz_files(bundle: Path, folder: Path, num_examples: int, *, seed: int) -> Counter[str]:
    """Tamper with files: the hashes tell, so all are refused."""

    def check(mutate: bundles.Mutation) -> str:
        copy = bundles.copy_bundle(bundle, folder / "copy")
        mutate(copy)
        return _refused(bundles.is_refused(copy), always=True)

    return _run("file", bundles.mutations(_names(bundle)), check, num_examples, seed)


def fuzz_manifests(bundle: Path, folder: Path, num_examples: int, *, seed: int) -> Counter[str]:
    """Tamper with the manifest, its id made good."""

    def check(mutate: bundles.Mutation) -> str:
        copy = bundles.copy_bundle(bundle, folder / "copy")
        mutate(copy)
        return _refused(bundles.is_refused(copy))

    return _run("manifest", bundles.manifests(), check, num_examples, seed)


def fuzz_sealed(bundle: Path, folder: Path, num_examples: int, *, seed: int) -> Counter[str]:
    """Tamper with files and make the manifest good: what nobody signed may still load."""

    def check(mutate: bundles.Mutation) -> str:
        copy = bundles.copy_bundle(bundle, folder / "copy")
        mutate(copy)
        bundles.reseal(copy)
        return _refused(bundles.is_refused(copy))

    return _run("sealed", bundles.contents(_names(bundle)), check, num_examples, seed)


def fuzz_signed(bundle: Path, folder: Path, num_examples: int, *, seed: int) -> Counter[str]:
    """As `fuzz_sealed`, where a signature is demanded: all are refused."""
    key = Ed25519PrivateKey.generate()

    def check(mutate: bundles.Mutation) -> str:
        copy = bundles.copy_bundle(bundle, folder / "copy")
        sign_bundle(copy, key)
        mutate(copy)
        bundles.reseal(copy)
        return _refused(bundles.is_refused(copy, [key.public_key()]), always=True)

    return _run("signed", bundles.contents(_names(bundle)), check, num_examples, seed)


def _run(
    kind: str,
    strategy: SearchStrategy[Any],
    check: Callable[[Any], str],
    num_examples: int,
    seed: int,
) -> Counter[str]:
    counts: Counter[str] = Counter()

    @seeded(seed)
    @settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(drawn: Any) -> None:
        with _at_most(EXAMPLE_SECONDS):
            counts[f"{kind}/{check(drawn)}"] += 1

    run()
    return counts


def _names(bundle: Path) -> list[str]:
    return [str(path) for path in list_files(bundle)]


def _refused(is_refused: bool, *, always: bool = False) -> str:
    if always and not is_refused:
        raise AssertionError("a bundle that was tampered with was loaded")
    return "refused" if is_refused else "loaded"


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise AssertionError(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("runs/demo/bundle"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
