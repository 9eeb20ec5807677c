"""The servable items in row order: trained items first, by decreasing number of watches.

One id space serves everywhere: row r of the catalogue is code r + 1 of every item embedding if
the item was frequent enough to be trained, code 0 (the zero vector) if not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artefacts import save_arrays
from recsys.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Catalogue:
    """Items by row.

    Args:
        vocabulary: External id <-> row.
        table: The item table of the data contract in row order (N rows, `item_id` and more).
        watch_counts: int64 [N], positive watches in the training part of the log.
        num_trained: The first `num_trained` rows have an embedding.
    """

    vocabulary: Vocabulary
    table: pa.Table
    watch_counts: np.ndarray
    num_trained: int

    def __len__(self) -> int:
        """Return the number of servable items."""
        return len(self.vocabulary)

    def rows(self, item_ids: Sequence[str | None] | pa.ChunkedArray) -> np.ndarray:
        """Return the row of each id, -1 where unknown: int32 [n]."""
        return self.vocabulary.rows(item_ids)

    def item_ids(self, rows: np.ndarray) -> list[str]:
        """Return the external ids of rows."""
        return self.vocabulary.ids(rows)

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Return embedding codes: row + 1 for trained rows, 0 for all else: int32."""
        trained = (rows >= 0) & (rows < self.num_trained)
        return np.where(trained, rows + 1, 0).astype(np.int32)

    def save(self, directory: Path) -> None:
        """Write the catalogue below a directory."""
        self.vocabulary.save(directory / "vocabulary")
        arrays = {"watch_counts": self.watch_counts, "num_trained": np.array([self.num_trained])}
        save_arrays(directory, arrays)
        pq.write_table(self.table, directory / "items.parquet", compression="zstd")

    @classmethod
    def load(cls, directory: Path) -> "Catalogue":
        """Read a catalogue written by `save`."""
        return cls(
            Vocabulary.load(directory / "vocabulary"),
            pq.ParquetFile(directory / "items.parquet").read(),  # read_table would import pandas
            np.load(directory / "watch_counts.npy", mmap_mode="r", allow_pickle=False),
            int(np.load(directory / "num_trained.npy", allow_pickle=False)[0]),
        )
