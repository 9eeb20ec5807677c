"""Maps between external ids (strings) and dense rows, stored as plain sorted arrays.

Rows follow decreasing frequency, ties by the bytes of the id, so a re-run on the same log gives
the same rows. An embedding table has one row more: code 0 stands for an unknown or missing
value (a zero vector), code r + 1 for row r.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.artefacts import load_arrays, save_arrays
from recsys.data.arrow_integers import filled
from recsys.errors import ArtefactError

UNKNOWN_ROW = -1


class Vocabulary:
    """Ids in row order, with look-up both ways.

    Args:
        sorted_ids: bytes [N], ascending, without duplicates (NumPy `S`, UTF-8).
        sorted_rows: int32 [N], the row of each.
    """

    def __init__(self, sorted_ids: np.ndarray, sorted_rows: np.ndarray) -> None:
        self._sorted_ids = sorted_ids
        self._sorted_rows = sorted_rows
        self._ids_by_row: np.ndarray | None = None

    @classmethod
    def from_ids(cls, ids: Iterable[str]) -> "Vocabulary":
        """Number the ids in the order given."""
        encoded = np.array([value.encode() for value in ids] or [], dtype=np.bytes_)
        order = np.argsort(encoded, kind="stable")
        return cls(encoded[order], order.astype(np.int32))

    @classmethod
    def from_counts(
        cls, ids: pa.Array, counts: pa.Array, *, max_size: int, min_count: int = 1
    ) -> "Vocabulary":
        """Number ids by decreasing count, ties by id; keep the first `max_size`."""
        table = pa.table({"id": pc.cast(ids, pa.binary()), "count": counts})
        table = table.filter(pc.greater_equal(table["count"], min_count))
        table = table.sort_by([("count", "descending"), ("id", "ascending")])[:max_size]
        return cls.from_ids(value.decode() for value in table["id"].to_pylist())

    def __len__(self) -> int:
        """Return the number of known ids."""
        return len(self._sorted_ids)

    @property
    def num_codes(self) -> int:
        """Rows that an embedding table needs: one for unknown, one for each id."""
        return len(self) + 1

    def rows(self, ids: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the row of each id, -1 where it is unknown or null: int32 [n]."""
        if isinstance(ids, (pa.Array, pa.ChunkedArray)):
            return self._rows_of_column(ids)
        if len(self) == 0 or len(ids) == 0:
            return np.full(len(ids), UNKNOWN_ROW, np.int32)
        wanted = np.array([b"" if value is None else value.encode() for value in ids])
        return self._search(wanted)

    def rows_of_bytes(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of each id in bytes (`S`) [n], -1 where it is unknown: int32 [n]."""
        if len(self) == 0 or len(ids) == 0:
            return np.full(len(ids), UNKNOWN_ROW, np.int32)
        return self._search(ids)

    def codes(self, ids: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the embedding code of each id, 0 where it is unknown or null: int32 [n]."""
        return self.rows(ids) + np.int32(1)

    def ids(self, rows: np.ndarray) -> list[str]:
        """Return the ids of known rows."""
        return [value.decode() for value in self.id_bytes(rows).tolist()]

    def id_bytes(self, rows: np.ndarray) -> np.ndarray:
        """Return the ids of known rows in bytes: `S` [n]."""
        if self._ids_by_row is None:
            ids_by_row = np.empty_like(self._sorted_ids)
            ids_by_row[self._sorted_rows] = self._sorted_ids
            self._ids_by_row = ids_by_row
        return self._ids_by_row[rows]

    def save(self, directory: Path) -> None:
        """Write both arrays below a directory."""
        save_arrays(directory, {"ids": self._sorted_ids, "rows": self._sorted_rows})

    @classmethod
    def load(cls, directory: Path) -> "Vocabulary":
        """Map both arrays from a directory.

        Raises:
            ArtefactError: They are no vocabulary: each id needs a row of its own.
        """
        arrays = load_arrays(directory)
        ids, rows = (arrays.get(name, np.zeros(0)) for name in ("ids", "rows"))
        if ids.dtype.kind != "S" or rows.dtype != np.int32 or ids.shape != rows.shape != ():
            raise ArtefactError(
                f"{directory}: expected bytes [N] and int32 rows [N], found {ids.dtype} "
                f"{list(ids.shape)} and {rows.dtype} {list(rows.shape)}; make it anew"
            )
        if not np.array_equal(np.sort(rows), np.arange(len(ids))):
            raise ArtefactError(
                f"{directory}: expected each row from 0 to {len(ids) - 1} once; make it anew"
            )
        return cls(ids, rows)

    def _rows_of_column(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        encoded = ids if pa.types.is_dictionary(ids.type) else pc.dictionary_encode(ids)
        by_value = self.rows(pc.cast(encoded.dictionary, pa.string()).to_pylist())
        positions = filled(encoded.indices, len(by_value))
        return np.append(by_value, np.int32(UNKNOWN_ROW))[positions]

    def _search(self, wanted: np.ndarray) -> np.ndarray:
        found = np.searchsorted(self._sorted_ids, wanted)
        found = np.minimum(found, len(self) - 1)
        known = self._sorted_ids[found] == wanted
        return np.where(known, self._sorted_rows[found], UNKNOWN_ROW).astype(np.int32)
