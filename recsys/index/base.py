"""The interface of an index, and how one is chosen, built, measured, saved and loaded."""

from pathlib import Path
from typing import Protocol

import numpy as np

from recsys.errors import ArtefactError, IndexRecallError
from recsys.index.approximate import (
    INVERTED_KINDS,
    ApproximateIndex,
    build_approximate,
    is_faiss_installed,
)
from recsys.index.exact import ExactIndex, row_chunks
from recsys.index.files import read_files
from recsys.index.recall import Truth
from recsys.index.sweep import sweep
from recsys.settings import IndexSettings

MAX_SCANNED = 50_000
"""Catalogues up to here are scanned by `auto`: a millisecond a query, and always right."""
NUM_SAMPLE_QUERIES = 200


class Index(Protocol):
    """Item vectors, searched by inner product. Row numbers are catalogue rows."""

    @property
    def kind(self) -> str:
        """Name of the kind, as in `IndexSettings.kind`."""
        ...

    def __len__(self) -> int:
        """Return the number of indexed vectors."""
        ...

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best rows of each query, best first, ties by the smaller row.

        Args:
            queries: float32 [B, D].
            k: At least 1; more than the index holds is padded.

        Returns:
            Scores float32 [B, k] and rows int64 [B, k]; row -1 and score -inf where fewer were
            found.
        """
        ...

    def save(self, directory: Path) -> None:
        """Write the index into a directory."""
        ...


def build_index(
    vectors: np.ndarray, settings: IndexSettings, queries: np.ndarray | None = None
) -> Index:
    """Build the index that the settings ask for, and measure it.

    `auto` scans small catalogues (and all, where FAISS is not installed), and takes `ivf_sq8` for
    large ones. What settings of inverted files do not fix is found by a sweep over every other
    query; the recall is measured on the rest. Beside the index itself, memory for a part of the
    vectors is taken: they may be mapped.

    Args:
        vectors: float32 [N, D], finite; row r is catalogue row r.
        settings: Kind and limits.
        queries: float32 [Q, D], as they will come; a sample of the vectors stands in for them.

    Raises:
        ArtefactError: A vector is not finite.
        ConfigError: FAISS is not installed, or the kind needs more items.
        IndexRecallError: The index finds less than `recall_floor` of the true `recall_k` best.
    """
    _check_vectors(vectors)
    settings = settings.model_copy(update={"kind": _choose_kind(settings, len(vectors))})
    exact = ExactIndex(vectors)
    if settings.kind == "exact":
        return exact
    if queries is None:
        chosen = np.linspace(0, len(vectors) - 1, min(NUM_SAMPLE_QUERIES, len(vectors)))
        queries = vectors[chosen.astype(np.int64)]
    index = build_approximate(vectors, settings)
    for_sweep, for_recall = Truth.scan(exact, queries, settings.recall_k).halves()
    if settings.kind in INVERTED_KINDS:
        index = sweep(index, for_sweep)
    recall = for_recall.recall(index)
    _check_recall(index, recall)
    return index.with_settings(recall=recall)


def load_index(directory: Path) -> Index:
    """Load what `Index.save` wrote; vectors and FAISS files are memory-mapped where they can be.

    Raises:
        ArtefactError: A file is missing, broken or of another format.
        ConfigError: The index needs FAISS, which is not installed.
    """
    vectors, description = read_files(directory)
    if description.settings.kind == "exact":
        return ExactIndex(vectors)
    return ApproximateIndex.load(directory, vectors, description)


def _choose_kind(settings: IndexSettings, num_vectors: int) -> str:
    if settings.kind != "auto":
        return settings.kind
    return "ivf_sq8" if num_vectors > MAX_SCANNED and is_faiss_installed() else "exact"


def _check_vectors(vectors: np.ndarray) -> None:
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise ValueError(
            f"expected vectors float32 [N, D], got {vectors.dtype} {list(vectors.shape)}"
        )
    for rows in row_chunks(vectors):
        broken = np.flatnonzero(~np.isfinite(vectors[rows]).all(axis=1))
        if len(broken):
            raise ArtefactError(
                f"expected finite item vectors, but row {rows.start + broken[0]} is not, and "
                f"perhaps others; train the candidate net anew, with a smaller learning rate"
            )


def _check_recall(index: ApproximateIndex, recall: float) -> None:
    settings = index.settings
    if recall >= settings.recall_floor:
        return
    knob = {
        "ivf": "num_probes",
        "ivf_sq8": "num_probes or rescore_factor",
        "ivf_pq": "num_probes, rescore_factor or pq_bytes",
        "hnsw": "ef_search or hnsw_links",
        "lsh": "lsh_bits or rescore_factor",
    }.get(index.kind, "recall_k")
    raise IndexRecallError(
        f"index of kind {index.kind!r}: expected a recall@{settings.recall_k} of at least "
        f"{settings.recall_floor}, measured {recall:.4f}; raise index.{knob}, take another kind, "
        f"or lower index.recall_floor"
    )
