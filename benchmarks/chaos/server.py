"""The server of `benchmarks.chaos`: the real one, its clock standing still, its stages breakable.

    python -m benchmarks.chaos.server --bundle DIR --store DIR --port 0 --metrics-port N --now US \\
        [--faults FILE]

FILE says which stages are broken now, and how: a JSON object such as {"ranker": "nan"}. Stages are
`tower`, `index`, `ranker`, `store`; faults `raise`, `hang`, `slow` and (not of the store) `nan`.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundle import Bundle
from recsys.recommender import Recommender
from serving.lmdb_store import LmdbStore
from serving.server import RecsysServer, ServerOptions, exempt_from_collection
from serving.stop_signal import StopSignal

SLOW_SECONDS = 0.01
LOOK_SECONDS = 0.02


class Faults:
    """Which stages are broken, read anew when the file changes."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._stamp, self._of = path, 0, {}

    def of(self, stage: str) -> str:
        """Return the stage's fault, empty for none."""
        if self._path is None:
            return ""
        stamp = self._path.stat().st_mtime_ns
        if stamp != self._stamp:
            self._of, self._stamp = json.loads(self._path.read_text()), stamp
        return self._of.get(stage, "")


class Breakable:
    """A part of the server with one method that may break; all else is the part's own."""

    def __init__(self, part: Any, method: str, stage: str, faults: Faults) -> None:
        self._part, self._stage, self._faults = part, stage, faults
        setattr(self, method, partial(self._call, getattr(part, method)))

    def __getattr__(self, name: str) -> Any:
        """Return what is the part's own."""
        return getattr(self._part, name)

    def __len__(self) -> int:
        """Return the part's length."""
        return len(self._part)

    def __bool__(self) -> bool:
        """Be there, whether or not the part has a length."""
        return True

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        fault = self._faults.of(self._stage)
        if fault == "raise":
            raise RuntimeError(f"{self._stage} is broken")
        while self._faults.of(self._stage) == "hang":
            time.sleep(LOOK_SECONDS)
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        result = method(*arguments)
        return _spoilt(result) if fault == "nan" else result


def _spoilt(result: Any) -> Any:
    """Return a result with every other number missing."""
    if isinstance(result, dict):
        return {name: _spoilt(values) for name, values in result.items()}
    if isinstance(result, tuple):  # scores and rows of an index: rows stay
        return (_spoilt(result[0]), *result[1:])
    spoilt = np.array(result)
    spoilt[..., ::2] = np.nan
    return spoilt


def main() -> None:
    """Serve until SIGTERM."""
    arguments = _parse_arguments()
    exempt_from_collection()
    with StopSignal() as stopping:
        faults = Faults(arguments.faults)
        server = RecsysServer(
            Breakable(LmdbStore(arguments.store), "get", "store", faults),  # type: ignore[arg-type]
            ServerOptions(port=arguments.port, admin=True, metrics_port=arguments.metrics_port),
            clock=lambda: arguments.now,
            load=partial(_load, faults),
        )
        server.start()
        server.make_ready(arguments.bundle)
        print(f"serving on 127.0.0.1:{server.port}, ready", flush=True)
        stopping.wait()
        server.drain(ServerOptions.drain_seconds)
        server.stop()


def _load(faults: Faults, directory: Path) -> Recommender:
    bundle = Bundle.load(directory)
    parts = {
        "user_tower": Breakable(bundle.user_tower, "vectors", "tower", faults),
        "index": Breakable(bundle.index, "search", "index", faults),
        "ranker": Breakable(bundle.ranker, "score", "ranker", faults),
    }
    return Recommender(replace(bundle, **parts))  # type: ignore[arg-type]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    for name in ("port", "metrics-port", "now"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--faults", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
