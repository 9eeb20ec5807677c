"""To be shown: an index of ten million mapped vectors is built in little memory beside its own.

    python -m benchmarks.index_memory [--vectors 10000000] [--runs runs/benchmarks] [--json]

Vectors lie in clusters, clusters in groups, with norms that differ; queries are of the same world.
They are written to a file and mapped. What is measured is the memory that is the process's own
(RssAnon) at its highest, several times a second: pages of the mapped file are the system's to drop.
Of it the index itself has to be there: a byte of code for each dimension, and row numbers.
"""

import argparse
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.output import print_result
from recsys.core.random import stream
from recsys.index.approximate import ApproximateIndex, build_approximate, code_bytes
from recsys.index.base import build_index
from recsys.settings import IndexSettings

WIDTH = 64
CLUSTER_VECTORS, GROUP_CLUSTERS, NUM_QUERIES = 100, 20, 500
SPREADS = (1.0, 0.7, 0.5)
"""Of groups, of clusters within them, of vectors within these."""
LOOK_SECONDS = 0.2
PART = 1 << 20


class PeakMemory:
    """The most memory of its own that this process had within the block, in MB."""

    def __init__(self) -> None:
        self.before_mb = self.peak_mb = _private_mb()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.peak_mb = max(self.peak_mb, _private_mb())


def main() -> None:
    """Write vectors, build, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    started = time.monotonic()
    path = arguments.runs / f"index_memory_{arguments.vectors}.npy"
    if not path.exists():
        _write_vectors(path, arguments.vectors)
    vectors = np.load(path, mmap_mode="r")
    queries = _vectors(np.arange(0, len(vectors), max(len(vectors) // NUM_QUERIES, 1)), "queries")
    _warm_up()
    with PeakMemory() as memory:
        building = time.monotonic()
        index = build_index(vectors, IndexSettings(kind="ivf_sq8"), queries)
        build_seconds = time.monotonic() - building
    if not isinstance(index, ApproximateIndex):
        raise TypeError(f"expected an index of FAISS, got {type(index).__name__}")
    index_mb = len(index) * code_bytes(index) / 2**20
    print_result(
        {
            "vectors": len(vectors),
            "vectors_mb": vectors.nbytes / 2**20,
            "index_mb": index_mb,
            "peak_private_mb": memory.peak_mb - memory.before_mb,
            "peak_beside_index_mb": memory.peak_mb - memory.before_mb - index_mb,
            "build_seconds": build_seconds,
            "recall": index.recall,
        },
        as_json=arguments.json,
        started=started,
        index=index.settings.model_dump(),
    )


def _warm_up() -> None:
    """Have FAISS loaded, and its threads started, before memory is looked at."""
    few = _vectors(np.arange(20_000), "warm")
    build_approximate(few, IndexSettings(kind="ivf_sq8"))


def _write_vectors(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    mapped = np.lib.format.open_memmap(scratch, "w+", np.float32, (number, WIDTH))
    for start in range(0, number, PART):
        rows = np.arange(start, min(start + PART, number))
        mapped[rows[0] : rows[-1] + 1] = _vectors(rows, f"part {start}")
    mapped.flush()
    scratch.rename(path)


def _vectors(rows: np.ndarray, part: str) -> np.ndarray:
    """Return vectors of these rows: what they share with neighbours, and noise of their own."""
    clusters = rows // CLUSTER_VECTORS
    groups = clusters // GROUP_CLUSTERS
    vectors = SPREADS[2] * _noise(len(rows), part)
    for spread, members, name in (
        (SPREADS[0], groups, "groups"),
        (SPREADS[1], clusters, "clusters"),
    ):
        numbers, place = np.unique(members, return_inverse=True)
        # One stream for all: a cluster has its centre whichever rows are asked for.
        shared = np.stack([_noise(1, f"{name} {number}")[0] for number in numbers])
        vectors += spread * shared[place]
    return vectors


def _noise(number: int, name: str) -> np.ndarray:
    return stream(0, f"index_memory {name}").standard_normal((number, WIDTH), np.float32)


def _private_mb() -> float:
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line
    )
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
