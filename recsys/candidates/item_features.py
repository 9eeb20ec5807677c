"""What items share with others, as hashed codes: categories, topics, words of a title.

A code is a hash of the column's name and the value, so new values need no new table: an item that
appears tomorrow is placed by what it shares with those of today.
"""

import re
import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from recsys.errors import DataError
from recsys.settings import CandidateSettings

WORD = re.compile(r"\w+")


def hashed_features(items: pa.Table, settings: CandidateSettings) -> np.ndarray | None:
    """Return the codes of each item's features, padded with 0: int32 [N, S]; None for no columns.

    Args:
        items: The catalogue's table.
        settings: Names the columns; an item keeps at most `max_item_features`, the columns in
            the order of the settings.

    Raises:
        DataError: The items have no such column.
    """
    wanted = [*settings.item_categorical, *settings.item_text]
    if not wanted:
        return None
    missing = [name for name in wanted if name not in items.column_names]
    if missing:
        raise DataError(
            f"candidates: no column {missing[0]!r} among the items, found {items.column_names}; "
            f"name one of these in item_categorical or item_text, or leave it out"
        )
    codes = np.zeros((len(items), settings.max_item_features), np.int32)
    columns = [(name, items[name].to_pylist()) for name in wanted]
    for row in range(len(items)):
        found: list[int] = []
        for name, values in columns:
            parts = _parts(values[row], is_text=name in settings.item_text)
            found += [_code(name, part, settings.item_feature_buckets) for part in parts]
        # An item that tells nothing shares that with others like it.
        found = found or [_code("", "", settings.item_feature_buckets)]
        kept = list(dict.fromkeys(found))[: settings.max_item_features]
        codes[row, : len(kept)] = kept
    return codes


def _parts(value: object, *, is_text: bool) -> Iterable[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    texts = [str(each) for each in values if each is not None]
    return [word for text in texts for word in WORD.findall(text.casefold())] if is_text else texts


def _code(name: str, value: str, num_buckets: int) -> int:
    """Return a code from 1 to `num_buckets`; CRC-32 is the same on every machine."""
    return 1 + zlib.crc32(f"{name}={value}".encode()) % num_buckets
