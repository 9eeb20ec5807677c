"""The interface of an index, and how one is chosen, built, measured, saved and loaded."""

from pathlib import Path
from typing import Protocol

import numpy as np


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
