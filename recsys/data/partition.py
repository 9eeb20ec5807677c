"""Spreads rows over shards by a hash of their user, the same on every machine and every run."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.columns import concatenated, id_bytes

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def hash_ids(ids: np.ndarray) -> np.ndarray:
    """Hash ids by FNV-1a, 64 bits.

    Args:
        ids: Bytes [n] (NumPy `S`).

    Returns:
        uint64 [n].

    References:
        Fowler, Noll, Vo, Eastlake: The FNV Non-Cryptographic Hash Algorithm, RFC 9923.
    """
    width = ids.dtype.itemsize
    content = np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), width)
    lengths = np.strings.str_len(ids)
    hashed = np.full(len(ids), _OFFSET)
    for column in range(width):
        stepped = (hashed ^ content[:, column]) * _PRIME
        hashed = np.where(lengths > column, stepped, hashed)
    return hashed


def shards_of(user_ids: pa.ChunkedArray, num_shards: int) -> np.ndarray:
    """Return the shard of each user id: int64 [n]."""
    encoded = pc.dictionary_encode(user_ids.combine_chunks())
    hashed = hash_ids(id_bytes(encoded.dictionary))
    # The low bits of FNV mix least well: fold the high half in.
    shard = ((hashed ^ (hashed >> np.uint64(32))) % np.uint64(num_shards)).astype(np.int64)
    return shard[encoded.indices.to_numpy(zero_copy_only=False)]


class Partitions:
    """Tables written batch by batch, one folder a shard; the order of rows is kept.

    Args:
        directory: Where the folders are made.
        num_shards: How many.
    """

    def __init__(self, directory: Path, num_shards: int) -> None:
        self._directory = directory
        self._num_shards = num_shards
        self._num_batches = 0

    def write(self, table: pa.Table) -> None:
        """Divide a batch with a column `user_id` among the shards."""
        shard = shards_of(table["user_id"], self._num_shards)
        order = np.argsort(shard, kind="stable")
        ordered = table.combine_chunks().take(pa.array(order))
        ends = np.cumsum(np.bincount(shard, minlength=self._num_shards))
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > start:
                self._write_part(number, ordered.slice(start, end - start))
        self._num_batches += 1

    def _write_part(self, shard: int, table: pa.Table) -> None:
        path = self._directory / f"{shard:05d}" / f"{self._num_batches:06d}.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def read_partition(directory: Path, shard: int) -> pa.Table | None:
    """Read what was written for a shard; None if nothing was."""
    paths = sorted((directory / f"{shard:05d}").glob("*.arrow"))
    if not paths:
        return None
    return concatenated([_read_part(path) for path in paths]).combine_chunks()


def _read_part(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()
