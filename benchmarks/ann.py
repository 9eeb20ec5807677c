"""Claim: at recall@300 of .95, our index answers twice the queries of FAISS HNSW32 and hnswlib.

1M x 64 item vectors of a trained net and user vectors that it was not trained on
(`benchmarks.ann_vectors`); one query at a time, one thread. Each side's settings are swept on half
of the queries; the first that reach the recall are measured on the other half, the sides taking
turns, by the median over the turns. Ours is what `recsys index` builds, re-scoring included.
Indexes are kept below `--runs`: HNSW graphs take minutes to build. A peer that is not installed is
left out.

    pip install hnswlib scann usearch
    python -m benchmarks.ann [--items 1000000] [--peers faiss_hnsw32,hnswlib] [--json]
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))  # to build

import numpy as np

from benchmarks.output import print_result
from benchmarks.peers.ann_indexes import PEERS, Peer
from recsys.index.approximate import ApproximateIndex
from recsys.index.base import Index, build_index, load_index
from recsys.index.exact import ExactIndex
from recsys.index.recall import Truth
from recsys.settings import IndexSettings

K, RECALL = 300, 0.95
FLOOR = 0.9
"""Half way from here to 1 is the recall that the sweep of the build goes for."""
TURNS, TURN_QUERIES = 9, 100


class Ours:
    """Our index, its settings chosen by its own build."""

    settings = (0,)

    def __init__(self, index: Index) -> None:
        self._index = index

    def set(self, setting: int) -> None:
        """Nothing to turn: the build chose."""

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """Search."""
        return self._index.search(query[None], k)[1][0]


def main() -> None:
    """Build what is not there yet, sweep, measure in turns."""
    started = time.monotonic()
    arguments = _parse_arguments()
    place = arguments.runs / f"ann_{arguments.items}"
    items, users = _vectors(place, arguments.items)
    exact = ExactIndex(items)
    for_sweep, for_measure = _truth(place, exact, users).halves()
    index, build_seconds = _ours(place, items, for_sweep)
    sides: dict[str, Peer] = {"ours": Ours(index)}
    skipped, chosen = {}, {}
    for name in arguments.peers.split(","):
        try:
            sides[name] = PEERS[name](items, place / name)
        except (ImportError, OSError) as error:
            skipped[name] = f"not installed, or does not load: {error}"
    for name, side in sides.items():
        chosen[name] = _sweep(side, for_sweep)
    figures = _measure(sides, for_measure)
    rates = {name: figure["queries_per_second"] for name, figure in figures.items()}
    print_result(
        {
            **{
                f"qps_ratio_{name}": rates["ours"] / rates[name] for name in rates if name != "ours"
            },
            "qps_ratio_hnsw": rates["ours"] / max(rates.get("faiss_hnsw32", 0.0), 1e-9),
            "recall@300": figures["ours"]["recall"],
        },
        as_json=arguments.json,
        started=started,
        sides={name: figures[name] | {"setting": chosen[name]} for name in sides},
        index=_described(index),
        build_seconds=build_seconds,
        skipped=skipped,
        items=len(items),
        width=items.shape[1],
        queries=len(for_measure.queries),
    )


def _vectors(place: Path, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Train the vectors in a process of its own, unless they are there."""
    out = place / "vectors"
    if not out.exists():
        scratch = place / ".vectors"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.ann_vectors",
                str(scratch),
                "--items",
                str(num_items),
            ],
            check=True,
        )
        scratch.rename(out)
    return np.load(out / "items.npy", mmap_mode="r"), np.load(out / "users.npy")


def _truth(place: Path, exact: ExactIndex, users: np.ndarray) -> Truth:
    path = place / "truth.npy"
    if not path.exists():
        np.save(path, Truth.scan(exact, users, K).rows)
    return Truth(users, np.load(path))


def _ours(place: Path, items: np.ndarray, truth: Truth) -> tuple[Index, float | None]:
    directory = place / "ours"
    if directory.exists():
        return load_index(directory), None
    started = time.monotonic()
    settings = IndexSettings(kind="ivf_sq8", recall_k=K, recall_floor=FLOOR)
    index = build_index(items, settings, truth.queries)
    scratch = place / ".ours"
    scratch.mkdir(parents=True, exist_ok=True)
    index.save(scratch)
    scratch.rename(directory)
    return index, time.monotonic() - started


def _described(index: Index) -> dict[str, Any]:
    if not isinstance(index, ApproximateIndex):
        return {"kind": index.kind}
    settings = index.settings
    names = ("kind", "num_lists", "num_probes", "rescore_factor")
    return {name: getattr(settings, name) for name in names}


def _sweep(side: Peer, truth: Truth) -> int:
    """Turn the knob up until the recall is reached."""
    for setting in side.settings:
        side.set(setting)
        if _recall(side, truth) >= RECALL:
            break
    return setting


def _recall(side: Peer, truth: Truth) -> float:
    found = 0
    for query, rows in zip(truth.queries, truth.rows, strict=True):
        found += len(np.intersect1d(side.search(query, K), rows))
    return found / truth.rows.size


def _measure(sides: dict[str, Peer], truth: Truth) -> dict[str, dict[str, float]]:
    """Return recall and queries a second of each side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for _ in range(TURNS):
        queries = truth.queries[rng.integers(0, len(truth.queries), TURN_QUERIES)]
        for name, side in sides.items():
            seconds[name].append(_seconds(side, queries))
    return {
        name: {
            "recall": _recall(side, truth),
            "queries_per_second": TURN_QUERIES / float(np.median(seconds[name])),
        }
        for name, side in sides.items()
    }


def _seconds(side: Peer, queries: Sequence[np.ndarray]) -> float:
    started = time.perf_counter()
    for query in queries:
        side.search(query, K)
    return time.perf_counter() - started


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
