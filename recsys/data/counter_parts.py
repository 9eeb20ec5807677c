"""Counters over the whole log in bounded memory: spread events by item, total, put them back.

Events lie in shards of users, but a counter needs all events of its item. Each shard spills what
the counters need, grouped by a part of the keys; each part is then totalled alone, and its
results are written into the arrays of the shards that asked.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recsys.artefacts import load_arrays, save_arrays
from recsys.data.counters import CountedEvents, counters_as_of


def spill(
    directory: Path,
    events: CountedEvents,
    keys: np.ndarray,
    queries: np.ndarray,
    asked_at: np.ndarray,
    num_parts: int,
) -> None:
    """Write the events of one shard grouped by part of the keys.

    Args:
        directory: Of this shard and kind of key.
        events: [E].
        keys: int64 [E], rows of items or numbers of channels, negative for none.
        queries: int64 [Q], positions of the events whose counters are wanted.
        asked_at: int64 [E], as of which moment they are.
        num_parts: Key k belongs to part `k % num_parts`.
    """
    query = np.full(len(keys), -1, np.int64)
    query[queries] = np.arange(len(queries))
    part = np.where(keys >= 0, keys % num_parts, num_parts)
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part, minlength=num_parts + 1))[:num_parts]
    arrays = {"keys": keys, "query": query, "asked_at": asked_at, **vars(events)}
    arrays = {name: values[order[: ends[-1]]] for name, values in arrays.items()}
    save_arrays(directory, arrays | {"ends": ends})


def total_part(spilled: Sequence[Path], targets: Sequence[Path], part: int) -> None:
    """Total one part of the keys and write the results into the shards' arrays.

    Args:
        spilled: Folders that `spill` wrote, one a shard.
        targets: `.npy` files, int64 [Q, 5] of each shard, changed in place.
        part: Which part.
    """
    pieces = [_read_part(directory, part) for directory in spilled]
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    query = joined.pop("query")
    keys, asked_at = joined.pop("keys"), joined.pop("asked_at")
    events = CountedEvents(**joined)
    asked = query >= 0
    totals = counters_as_of(events, keys, keys[asked], asked_at[asked])
    start = 0
    for piece, target in zip(pieces, targets, strict=True):
        rows = piece["query"][piece["query"] >= 0]
        if len(rows):
            array = np.lib.format.open_memmap(target, mode="r+")
            array[rows] = totals[start : start + len(rows)]
            array.flush()
        start += len(rows)


def _read_part(directory: Path, part: int) -> dict[str, np.ndarray]:
    arrays = load_arrays(directory)
    ends = arrays.pop("ends")
    start = ends[part - 1] if part else 0
    return {name: values[start : ends[part]] for name, values in arrays.items()}
