"""What the ranker knows of each item: arrays by catalogue row, shipped in the bundle."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.artefacts import load_arrays, save_arrays
from recsys.data.catalogue import Catalogue
from recsys.data.columns import categories, codes_of, floats, integers
from recsys.data.vocabulary import Vocabulary
from recsys.settings import RankingSettings

UNKNOWN = -1
MAX_BAG_LENGTH = 8
"""Values kept of a list column; an item with more topics than this is about nothing."""


@dataclass(frozen=True)
class ItemFeatures:
    """N items in catalogue order; M values at most in a list column.

    Args:
        code: int32 [N], embedding codes of the items themselves (0 without a trained row).
        codes: Column -> embedding codes: int32 [N], or [N, M] for a list column (0 padded).
        numeric: Column -> float32 [N], NaN missing.
        duration_ms: int64 [N], -1 unknown.
        upload_time: int64 [N], microseconds since the epoch, -1 unknown.
        channel: int32 [N], number of the channel, -1 none.
        topics: int32 [N, M], numbers of the topics, -1 padded.
        num_channels, num_topics: How many there are.
    """

    code: np.ndarray
    codes: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    duration_ms: np.ndarray
    upload_time: np.ndarray
    channel: np.ndarray
    topics: np.ndarray
    num_channels: int
    num_topics: int

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.code)

    @classmethod
    def build(
        cls,
        catalogue: Catalogue,
        vocabularies: Mapping[str, Vocabulary],
        settings: RankingSettings,
    ) -> "ItemFeatures":
        """Look every configured column of the catalogue up in its vocabulary."""
        table = catalogue.table
        channel, num_channels = _numbers(table, "channel_id")
        topics, num_topics = _topic_numbers(table)
        return cls(
            code=catalogue.codes(np.arange(len(catalogue), dtype=np.int32)),
            codes={
                name: _codes(table[name], vocabularies[name]) for name in settings.item_categorical
            },
            numeric={name: floats(table, name) for name in settings.item_numeric},
            duration_ms=_known_duration_ms(table),
            upload_time=integers(table, "upload_time"),
            channel=channel,
            topics=topics,
            num_channels=num_channels,
            num_topics=num_topics,
        )

    def codes_of(
        self, rows: np.ndarray, categorical: Collection[str], bags: Collection[str]
    ) -> dict[str, np.ndarray]:
        """Look the embedding codes of items up, 0 for row -1.

        Args:
            rows: int [...], catalogue rows.
            categorical: Columns of one value, B of them.
            bags: List columns, L of them.

        Returns:
            `item` int32 [...], `categorical` int32 [..., B], and `bags` int32 [..., L, M], padded
            with 0 to the longest list.
        """
        single, lists = [self.codes[name] for name in categorical], [self.codes[n] for n in bags]
        length = max((codes.shape[1] for codes in lists), default=0)
        found = {
            "item": self.code[rows],
            "categorical": np.zeros((*rows.shape, len(single)), np.int32),
            "bags": np.zeros((*rows.shape, len(lists), length), np.int32),
        }
        for column, codes in enumerate(single):
            found["categorical"][..., column] = codes[rows]
        for bag, codes in enumerate(lists):
            found["bags"][..., bag, : codes.shape[1]] = codes[rows]
        if (rows < 0).any():
            for values in found.values():
                values[rows < 0] = 0
        return found

    def save(self, directory: Path) -> None:
        """Write one array file each."""
        arrays = {
            "code": self.code,
            "duration_ms": self.duration_ms,
            "upload_time": self.upload_time,
            "channel": self.channel,
            "topics": self.topics,
            "sizes": np.array([self.num_channels, self.num_topics]),
        }
        arrays |= {f"codes/{name}": values for name, values in self.codes.items()}
        arrays |= {f"numeric/{name}": values for name, values in self.numeric.items()}
        save_arrays(directory, arrays)

    @classmethod
    def load(cls, directory: Path) -> "ItemFeatures":
        """Map what `save` wrote."""
        arrays = load_arrays(directory)
        num_channels, num_topics = arrays["sizes"].tolist()
        return cls(
            code=arrays["code"],
            codes=_below(arrays, "codes/"),
            numeric=_below(arrays, "numeric/"),
            duration_ms=arrays["duration_ms"],
            upload_time=arrays["upload_time"],
            channel=arrays["channel"],
            topics=arrays["topics"],
            num_channels=num_channels,
            num_topics=num_topics,
        )


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def _is_list(column: pa.ChunkedArray) -> bool:
    return pa.types.is_list(column.type) or pa.types.is_large_list(column.type)


def _codes(column: pa.ChunkedArray, vocabulary: Vocabulary) -> np.ndarray:
    if not _is_list(column):
        return codes_of(column, vocabulary)
    lists = column.combine_chunks()
    return _padded(lists, codes_of(pc.list_flatten(lists), vocabulary), 0)


def _padded(lists: pa.Array, values: np.ndarray, padding: int) -> np.ndarray:
    """Lay flattened list values out in rows, at most `MAX_BAG_LENGTH` of each: int32 [N, M]."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    width = max(1, min(MAX_BAG_LENGTH, int(lengths.max(initial=0))))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = column < width
    out = np.full((len(lengths), width), padding, np.int32)
    out[owner[kept], column[kept]] = values[kept]
    return out


def _numbers(table: pa.Table, name: str) -> tuple[np.ndarray, int]:
    """Number the values of a column, equal values alike; nulls are -1."""
    if name not in table.column_names:
        return np.full(len(table), UNKNOWN, np.int32), 0
    return _dictionary(table[name].combine_chunks())


def _topic_numbers(table: pa.Table) -> tuple[np.ndarray, int]:
    if "topics" not in table.column_names:
        return np.full((len(table), 1), UNKNOWN, np.int32), 0
    lists = table["topics"].combine_chunks()
    numbers, num_topics = _dictionary(pc.list_flatten(lists))
    return _padded(lists, numbers, UNKNOWN), num_topics


def _dictionary(values: pa.Array) -> tuple[np.ndarray, int]:
    encoded = categories(values)
    indices = encoded.indices.fill_null(UNKNOWN).to_numpy(zero_copy_only=False)
    return indices.astype(np.int32), len(encoded.dictionary)


def _known_duration_ms(table: pa.Table) -> np.ndarray:
    """Return durations with everything that says nothing (null, 0) as -1: int64 [N]."""
    duration_ms = integers(table, "duration_ms")
    return np.where(duration_ms > 0, duration_ms, UNKNOWN)
