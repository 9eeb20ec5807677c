"""What an index finds of what there is to find."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.index.exact import ExactIndex


class Searcher(Protocol):
    """Anything that finds rows."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best rows of each query: see `recsys.index.base.Index.search`."""
        ...


@dataclass(frozen=True)
class Truth:
    """Queries and their true best rows: to scan for them costs more than all that is measured.

    Args:
        queries: float32 [Q, D].
        rows: int64 [Q, k].
    """

    queries: np.ndarray
    rows: np.ndarray

    @classmethod
    def scan(cls, exact: ExactIndex, queries: np.ndarray, k: int) -> "Truth":
        """Find the k best of each query, all where there are fewer."""
        k = min(k, len(exact))
        rows = exact.search(queries, k)[1] if k else np.zeros((len(queries), 0), np.int64)
        return cls(queries, rows)

    def halves(self) -> tuple["Truth", "Truth"]:
        """Return every other query, and the others; all twice if there is but one."""
        if len(self.queries) < 2:
            return self, self
        even, odd = slice(0, None, 2), slice(1, None, 2)
        return Truth(self.queries[even], self.rows[even]), Truth(self.queries[odd], self.rows[odd])

    def recall(self, index: Searcher) -> float:
        """Return the share of the true rows that an index finds, over all queries; 1 of none."""
        if self.rows.size == 0:
            return 1.0
        found = index.search(self.queries, self.rows.shape[1])[1]
        pairs = zip(found, self.rows, strict=True)
        return sum(len(np.intersect1d(f, t)) for f, t in pairs) / self.rows.size
