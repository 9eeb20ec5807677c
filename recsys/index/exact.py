"""The exact index: every vector is scored. The oracle of all other kinds, and their re-scoring.

The last bits of a BLAS product depend on the number of rows multiplied together. So BLAS only
narrows the choice, with a margin for its rounding; what decides is `score_rows`, whose result
for a row is the same whatever stands beside it. A query gets the same answer alone, in a batch,
and from any index that finds the same rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recsys.index.files import Description, write_files
from recsys.settings import IndexSettings

MAX_CHUNK_SCORES = 1 << 23
"""Scores held at once by a batch: 32 MB."""
CHUNK_ROWS = 1 << 17
"""Vectors looked at together where all are looked at once."""


class ExactIndex:
    """Item vectors scanned with NumPy.

    Args:
        vectors: float32 [N, D], finite; row r is catalogue row r.
    """

    kind = "exact"

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        norms = [np.linalg.norm(vectors[rows], axis=1).max() for rows in row_chunks(vectors)]
        self._largest_norm = float(max(norms, default=0.0))

    def __len__(self) -> int:
        """Return the number of indexed vectors."""
        return len(self.vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best rows of each query: see `recsys.index.base.Index.search`."""
        check_queries(queries, k, self.vectors.shape[1])
        scores, rows = empty_answer(len(queries), k)
        chunk = max(1, MAX_CHUNK_SCORES // max(len(self), 1))
        for start in range(0, len(queries), chunk):
            coarse = queries[start : start + chunk] @ self.vectors.T
            for offset, coarse_scores in enumerate(coarse):
                q = start + offset
                candidates = self._narrow(queries[q], coarse_scores, k)
                fill_best(scores[q], rows[q], self.vectors, queries[q], candidates)
        return scores, rows

    def save(self, directory: Path) -> None:
        """Write the index into a directory."""
        write_files(directory, self.vectors, Description(IndexSettings(kind="exact"), 1.0))

    def _narrow(self, query: np.ndarray, coarse: np.ndarray, k: int) -> np.ndarray:
        """Return every row that may be among the k best, ascending."""
        if k >= len(coarse):
            return np.arange(len(coarse))
        kth = np.partition(coarse, len(coarse) - k)[len(coarse) - k]
        # An inner product of D floats is off by at most about D eps |q| |v|, each of two scores.
        rounding = len(query) * np.finfo(np.float32).eps
        margin = 2 * rounding * float(np.linalg.norm(query)) * self._largest_norm
        return np.flatnonzero(coarse >= kth - margin)


def row_chunks(vectors: np.ndarray) -> Iterator[slice]:
    """Yield the rows of an array in parts that are small beside mapped vectors."""
    for start in range(0, len(vectors), CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, len(vectors)))


def score_rows(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the inner products of a query with some rows, summed in double precision.

    Args:
        vectors: float32 [N, D].
        query: float32 [D].
        rows: int64 [C].

    Returns:
        float32 [C], each independent of the other rows.
    """
    exact = np.einsum("cd,d->c", vectors[rows].astype(np.float64), query.astype(np.float64))
    return exact.astype(np.float32)


def fill_best(
    scores: np.ndarray, rows: np.ndarray, vectors: np.ndarray, query: np.ndarray, found: np.ndarray
) -> None:
    """Write the best of the found rows into one line of an answer, best first.

    Args:
        scores: float32 [k], -inf; rows: int64 [k], -1. Both are filled in place.
        vectors: float32 [N, D]; query: float32 [D].
        found: int64 [C], ascending and without duplicates, so that ties go to the smaller row.
    """
    exact = score_rows(vectors, query, found)
    best = np.argsort(-exact, kind="stable")[: len(rows)]
    best = best[~np.isnan(exact[best])]
    scores[: len(best)] = exact[best]
    rows[: len(best)] = found[best]


def empty_answer(num_queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an answer in which nothing was found: scores and rows [B, k]."""
    scores = np.full((num_queries, k), -np.inf, np.float32)
    return scores, np.full((num_queries, k), -1, np.int64)


def check_queries(queries: np.ndarray, k: int, width: int) -> None:
    """Refuse arguments that no index can answer.

    Raises:
        ValueError: The queries are not float32 [B, width], or k is below 1.
    """
    if queries.dtype != np.float32 or queries.ndim != 2 or queries.shape[1] != width:
        raise ValueError(
            f"expected queries float32 [B, {width}], got {queries.dtype} {list(queries.shape)}"
        )
    if k < 1:
        raise ValueError(f"expected k of at least 1, got {k}")
