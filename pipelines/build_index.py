"""Build the index over the item vectors, and measure it with real user vectors.

Beside the index lies `recall.json`: recall and time a query of the index, of the exact scan, and
of a few other kinds and settings, so that a report can plot one against the other.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recsys.errors import ArtefactError, ConfigError
from recsys.index.approximate import (
    INVERTED_KINDS,
    ApproximateIndex,
    build_approximate,
    is_faiss_installed,
)
from recsys.index.base import Index, build_index
from recsys.index.exact import ExactIndex
from recsys.index.recall import Truth
from recsys.settings import IndexSettings, RecsysSettings

MAX_QUERIES = 1000
NUM_TIMED_QUERIES = 100
NUM_COMPARED_QUERIES = 200
MAX_COMPARED = 60_000
"""Larger catalogues are not indexed again by other kinds only for the plot."""
COMPARED_KINDS = ("ivf_sq8", "hnsw", "lsh")
PROBE_SHARES = (1 / 32, 1 / 8, 1 / 4, 1 / 2)
EF_SEARCHES = (50, 100, 400)


def main(settings: RecsysSettings, candidates: Path, out: Path) -> None:
    """Build the index of a run.

    Args:
        settings: The configuration.
        candidates: Directory of the candidate stage: `item_vectors.npy`, `user_vectors.parquet`.
        out: Directory to write the index and `recall.json` into.

    Raises:
        ArtefactError: The candidate stage's files are missing or broken.
        ConfigError: The kind needs FAISS or more items.
        IndexRecallError: The index finds less than the floor.
    """
    vectors = _read_item_vectors(candidates / "item_vectors.npy")
    queries = _sample_queries(candidates / "user_vectors.parquet", settings.seed)
    index = build_index(vectors, settings.index, queries)
    out.mkdir(parents=True, exist_ok=True)
    index.save(out)
    measured = list(_measure_all(index, vectors, queries, settings.index))
    text = json.dumps(measured, sort_keys=True, indent=1, allow_nan=False)
    (out / "recall.json").write_text(text + "\n", encoding="utf-8")


def _read_item_vectors(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{path}: expected item vectors, float32 [N, D], but {error}; "
            f"run the candidates step first"
        ) from None


def _sample_queries(path: Path, seed: int) -> np.ndarray:
    """Return at most 1000 user vectors, float32 [Q, D], in file order."""
    try:
        column = pq.read_table(path, columns=["vector"])["vector"].combine_chunks()
    except (OSError, ValueError, KeyError) as error:
        raise ArtefactError(
            f"{path}: expected user vectors, a fixed-size list column 'vector', but {error}; "
            f"run the candidates step first"
        ) from None
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(column), min(MAX_QUERIES, len(column)), replace=False)
    picked = column.take(np.sort(chosen))
    values = picked.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return values.reshape(len(picked), column.type.list_size)


def _measure_all(
    index: Index, vectors: np.ndarray, queries: np.ndarray, settings: IndexSettings
) -> Iterator[dict[str, Any]]:
    """Yield {kind, setting, recall, milliseconds, is_chosen} of the index, first, and of others."""
    exact = ExactIndex(vectors)
    truth = Truth.scan(exact, queries, max(1, settings.recall_k))
    yield _measure(index, truth, is_chosen=True)
    if index.kind != "exact":
        yield _measure(exact, truth)
    few = Truth(truth.queries[:NUM_COMPARED_QUERIES], truth.rows[:NUM_COMPARED_QUERIES])
    for other in _alternatives(index, vectors, settings):
        yield _measure(other, few)


def _measure(index: Index, truth: Truth, *, is_chosen: bool = False) -> dict[str, Any]:
    k = max(1, truth.rows.shape[1])
    timed = truth.queries[:NUM_TIMED_QUERIES]
    started = time.perf_counter()
    for query in timed:
        index.search(query[None, :], k)
    seconds = time.perf_counter() - started
    return {
        "kind": index.kind,
        "setting": _setting(index),
        "k": k,
        "recall": 1.0 if index.kind == "exact" else truth.recall(index),
        "milliseconds": 1e3 * seconds / max(len(timed), 1),
        "is_chosen": is_chosen,
    }


def _setting(index: Index) -> str:
    """Say what was varied, in a word or two."""
    if not isinstance(index, ApproximateIndex):
        return ""
    settings = index.settings
    if index.kind in INVERTED_KINDS:
        return f"{settings.num_probes} of {settings.num_lists} lists, {index.rescore_factor:g} k"
    return {"hnsw": f"ef {settings.ef_search}", "lsh": f"{settings.lsh_bits} bits"}.get(
        index.kind, ""
    )


def _alternatives(
    index: Index, vectors: np.ndarray, settings: IndexSettings
) -> Iterator[ApproximateIndex]:
    """Yield other kinds over a catalogue that is not too large, each with several settings."""
    if isinstance(index, ApproximateIndex):
        yield from _variations(index)
    if len(vectors) > MAX_COMPARED or not is_faiss_installed():
        return
    for kind in COMPARED_KINDS:
        if kind == index.kind:
            continue
        asked = settings.model_copy(update={"kind": kind, "num_lists": None})
        try:
            built = build_approximate(vectors, asked)
        except ConfigError:  # Too few items to train this kind.
            continue
        yield from list(_variations(built)) or [built]


def _variations(index: ApproximateIndex) -> Iterator[ApproximateIndex]:
    """Yield an index with several search settings; nothing for kinds that have none."""
    if index.kind in INVERTED_KINDS:
        num_lists = index.settings.num_lists or 1
        for num_probes in sorted({max(1, int(share * num_lists)) for share in PROBE_SHARES}):
            yield index.with_settings(num_probes=num_probes)
    elif index.kind == "hnsw":
        for ef_search in EF_SEARCHES:
            yield index.with_settings(ef_search=ef_search)
