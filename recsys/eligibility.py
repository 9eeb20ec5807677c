"""Which items may be returned for a request, and why the others may not."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.arrow_integers import filled
from recsys.data.catalogue import Catalogue
from recsys.errors import RequestError
from recsys.requests import ItemFilter

REASONS = ("", "watched", "excluded", "current", "unavailable", "filtered", "not_allowed")
"""Names of the codes that `Eligibility.reasons` gives; code 0 may be returned."""
WATCHED, EXCLUDED, CURRENT, UNAVAILABLE, FILTERED, NOT_ALLOWED = range(1, 7)
FOREVER = np.iinfo(np.int64).max
MICROSECONDS_PER_MILLISECOND = 1000
UNKNOWN = -1


@dataclass(frozen=True)
class Restrictions:
    """What one request rules out, in catalogue rows.

    Args:
        watched, excluded: int32, sorted rows.
        current: Row of the item being watched, -1 none.
        item_filter: See `ItemFilter`.
        now: Microseconds since the epoch.
        allowed: int32, sorted rows that alone may be returned; None allows all.
    """

    watched: np.ndarray
    excluded: np.ndarray
    current: int
    item_filter: ItemFilter
    now: int
    allowed: np.ndarray | None = None


class Eligibility:
    """Attributes of all items by row, for exact filters over any rows."""

    def __init__(self, catalogue: Catalogue) -> None:
        table = catalogue.table
        num_items = len(catalogue)
        self._channel = _Coded(_column(table, "channel_id", pa.string()))
        self._language = _Coded(_column(table, "language", pa.string()))
        topics = _column(table, "topics", pa.list_(pa.string()))
        self._topic = _Coded(pc.list_flatten(topics))
        lengths = filled(pc.list_value_length(topics), 0)
        self._topic_item = np.repeat(np.arange(num_items), lengths)
        self._duration_ms = _integers(table, "duration_ms", 0)
        self._upload_time = _integers(table, "upload_time", UNKNOWN)
        self._available_from = _integers(table, "available_from", -FOREVER)
        self._available_until = _integers(table, "available_until", FOREVER)
        self._num_items = num_items

    def check(self, item_filter: ItemFilter) -> None:
        """Refuse a filter on values that no item has.

        Raises:
            RequestError: Naming the field and the value.
        """
        for name, coded, wanted in (
            ("topics", self._topic, item_filter.topics),
            ("channel_ids", self._channel, item_filter.channel_ids),
            ("languages", self._language, item_filter.languages),
        ):
            for value in sorted(wanted):
                if value not in coded.code_of:
                    raise RequestError(
                        f"filter.{name}",
                        f"expected values that some item has, got {value!r}; leave it out",
                    )

    def reasons(self, rows: np.ndarray, restrictions: Restrictions) -> np.ndarray:
        """Say for each row why it may not be returned, 0 where it may.

        Args:
            rows: int [n], valid catalogue rows.
            restrictions: What the request rules out.

        Returns:
            int8 [n], positions in `REASONS`; of several reasons the first in that order.
        """
        now = restrictions.now
        reasons = np.where(self.passes(rows, restrictions.item_filter, now), 0, FILTERED)
        if restrictions.allowed is not None:
            reasons[~_is_in(rows, restrictions.allowed)] = NOT_ALLOWED
        available = (self._available_from[rows] <= now) & (now < self._available_until[rows])
        reasons[~available] = UNAVAILABLE
        reasons[rows == restrictions.current] = CURRENT
        reasons[_is_in(rows, restrictions.excluded)] = EXCLUDED
        reasons[_is_in(rows, restrictions.watched)] = WATCHED
        return reasons.astype(np.int8)

    def passes(self, rows: np.ndarray, item_filter: ItemFilter, now: int) -> np.ndarray:
        """Say for each row whether a filter lets it through: bool [n]."""
        passes = np.ones(len(rows), bool)
        if item_filter.channel_ids:
            passes &= self._channel.matches(rows, item_filter.channel_ids)
        if item_filter.excluded_channel_ids:
            passes &= ~self._channel.matches(rows, item_filter.excluded_channel_ids)
        if item_filter.languages:
            passes &= self._language.matches(rows, item_filter.languages)
        if item_filter.topics:
            passes &= self._tagged(item_filter.topics)[rows]
        if item_filter.excluded_topics:
            passes &= ~self._tagged(item_filter.excluded_topics)[rows]
        if item_filter.max_duration_ms is not None:
            passes &= self._duration_ms[rows] <= item_filter.max_duration_ms
        if item_filter.max_age_ms is not None:
            passes &= self.is_younger(rows, item_filter.max_age_ms, now)
        return passes

    def is_younger(self, rows: np.ndarray, max_age_ms: int, now: int) -> np.ndarray:
        """Say which items were uploaded at most so long ago: bool [n], no for unknown ages."""
        uploaded = self._upload_time[rows]
        age = now - uploaded
        young = (age >= 0) & (age <= max_age_ms * MICROSECONDS_PER_MILLISECOND)
        return young & (uploaded != UNKNOWN)

    def _tagged(self, topics: Iterable[str]) -> np.ndarray:
        """Say which items of the catalogue have one of the topics: bool [N]."""
        tagged = np.zeros(self._num_items, bool)
        tagged[self._topic_item[self._topic.matches(slice(None), topics)]] = True
        return tagged


class _Coded:
    """A string column as integer codes."""

    def __init__(self, column: pa.Array) -> None:
        encoded = pc.dictionary_encode(column)
        self.code_of = {value: code for code, value in enumerate(encoded.dictionary.to_pylist())}
        self.codes = filled(encoded.indices, -1)

    def matches(self, positions: np.ndarray | slice, wanted: Iterable[str]) -> np.ndarray:
        codes = [self.code_of[value] for value in wanted if value in self.code_of]
        return np.isin(self.codes[positions], codes)


def _is_in(rows: np.ndarray, sorted_rows: np.ndarray) -> np.ndarray:
    if len(sorted_rows) == 0:
        return np.zeros(len(rows), bool)
    found = np.minimum(np.searchsorted(sorted_rows, rows), len(sorted_rows) - 1)
    return sorted_rows[found] == rows


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(len(table), kind)
    return pc.cast(table[name].combine_chunks(), kind)


def _integers(table: pa.Table, name: str, missing: int) -> np.ndarray:
    return filled(_column(table, name, pa.int64()), missing)
