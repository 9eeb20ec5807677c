"""Arrow columns as NumPy arrays: ids as bytes, nulls as a stated value, values as categories.

A categorical value has one spelling wherever it comes from, a column of the log or a request:
`category_of` gives it, so 7, 7.0 and '7' are one category, and True is '1'.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.vocabulary import Vocabulary
from recsys.errors import DataError

UNKNOWN = -1


def category_of(value: str | float | None) -> str | None:
    """Return the one spelling of a categorical value; None, NaN and '' are missing."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(float(value))


def categories(column: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """Spell a column's values as categories: a dictionary array of strings.

    Raises:
        DataError: The values are neither strings nor numbers nor booleans.
    """
    encoded = _combined(column)
    if not pa.types.is_dictionary(encoded.type):
        encoded = pc.dictionary_encode(encoded)
    if pa.types.is_nested(encoded.dictionary.type) or pa.types.is_temporal(encoded.dictionary.type):
        raise DataError(
            f"expected categories (strings, numbers, booleans), got a column of "
            f"{encoded.dictionary.type}; name another column in the config"
        )
    spelled = pa.array([category_of(v) for v in encoded.dictionary.to_pylist()], pa.string())
    if not pa.types.is_string(encoded.dictionary.type) or spelled.null_count:
        # Two spellings of one value (7 and 7.0) or a missing one: encode once more.
        encoded = pc.dictionary_encode(spelled.take(encoded.indices))
    return encoded


def codes_of(column: pa.ChunkedArray, vocabulary: Vocabulary) -> np.ndarray:
    """Return the embedding code of each value of a column: int32 [n], 0 unknown or null."""
    return vocabulary.codes(categories(column))


def integers(table: pa.Table, name: str, missing: int = UNKNOWN) -> np.ndarray:
    """Return a column of integers or times (microseconds): int64 [n], nulls as `missing`."""
    if name not in table.column_names:
        return np.full(len(table), missing, np.int64)
    column = _combined(table[name])
    return pc.cast(column, pa.int64()).fill_null(missing).to_numpy(zero_copy_only=False)


def flags(table: pa.Table, name: str, missing: int = UNKNOWN) -> np.ndarray:
    """Return a column of yes and no (numbers: above 0): int8 [n], nulls as `missing`.

    Raises:
        DataError: The column holds neither booleans nor numbers.
    """
    if name not in table.column_names:
        return np.full(len(table), missing, np.int8)
    column = _combined(table[name])
    if not pa.types.is_boolean(column.type):
        column = pc.greater(_numbers(column, name), 0)
    return pc.cast(column, pa.int8()).fill_null(missing).to_numpy(zero_copy_only=False)


def floats(table: pa.Table, name: str) -> np.ndarray:
    """Return a column of numbers: float32 [n], NaN where null or absent.

    Raises:
        DataError: The column holds neither booleans nor numbers.
    """
    if name not in table.column_names:
        return np.full(len(table), np.nan, np.float32)
    column = _numbers(_combined(table[name]), name)
    return pc.cast(column, pa.float32(), safe=False).to_numpy(zero_copy_only=False)


def id_bytes(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return ids as NumPy bytes (`S`) [n]; null as empty."""
    array = pc.fill_null(pc.cast(_combined(column), pa.large_string()), "")
    if len(array) == 0:
        return np.zeros(0, np.bytes_)
    _, offset_buffer, data = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    lengths = np.diff(offsets)
    width = max(int(lengths.max()), 1)
    # Room behind the last id, so that each id can be cut out at full width.
    content = np.frombuffer(data or b"", np.uint8)[offsets[0] : offsets[-1]]
    content = np.concatenate([content, np.zeros(width, np.uint8)])
    column_number = np.arange(width)
    cut = content[(offsets[:-1] - offsets[0])[:, None] + column_number]
    cut[column_number >= lengths[:, None]] = 0
    return cut.view(f"S{width}").ravel()


def encode_ids(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Number ids in the order of their bytes.

    Returns:
        The distinct ids, ascending (`S`) [U], and the number of each row int64 [n].
    """
    encoded = pc.dictionary_encode(_combined(column))
    distinct = id_bytes(encoded.dictionary)
    order = np.argsort(distinct)
    number = np.empty(len(distinct), np.int64)
    number[order] = np.arange(len(distinct))
    return distinct[order], number[encoded.indices.to_numpy(zero_copy_only=False)]


def text_of(ids: np.ndarray) -> pa.Array:
    """Return ids in bytes (`S`) [n] as an Arrow array of strings."""
    return pc.cast(pa.array(ids.astype(object), pa.binary()), pa.string())


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables of which some lack columns that others have."""
    return pa.concat_tables(tables, promote_options="permissive")


def _combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _numbers(column: pa.Array, name: str) -> pa.Array:
    if pa.types.is_boolean(column.type):
        return pc.cast(column, pa.int8())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column
    raise DataError(
        f"column {name!r}: expected numbers or booleans, got {column.type}; "
        f"convert it in the log, or name another column in the config"
    )
