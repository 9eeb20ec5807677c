"""What a log holds, in one pass: counts, spans, nulls, watch-time quantiles, heaviest ids."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.log import Log
from recsys.data.validation import (
    Validated,
    validate_events,
    validate_items,
    validate_searches,
    validate_users,
)
from recsys.settings import DataSettings

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
NUM_HEAVIEST = 10
_ANY_TIME = DataSettings(source="table")


def describe(log: Log) -> dict[str, Any]:
    """Return a summary of a log, fit for JSON.

    Args:
        log: Read once; only rows that obey the data contract are described, the others counted.

    Raises:
        DataError: A table breaks the contract as a whole.
    """
    events, searches = _EventSummary(), _TableSummary()
    for table in log.events():
        events.add(validate_events(table, _ANY_TIME))
    for table in log.searches():
        searches.add(validate_searches(table, _ANY_TIME))
    summary: dict[str, Any] = {"events": events.result(), "searches": searches.result()}
    for name, table, validate in (
        ("items", log.items, validate_items),
        ("users", log.users, validate_users),
    ):
        if table is not None:
            summary[name] = _TableSummary.of(validate(table)).result()
    summary["bad_files"] = dict(log.problems.bad_files)
    summary["bad_lines"] = len(log.problems.bad_lines)
    return summary


class Sample:
    """Evenly spaced values of a stream, all of them until there are too many.

    Args:
        limit: Values kept at most; at twice as many every other one is dropped.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self._limit, self._stride, self._skip, self._size = limit, 1, 0, 0
        self._parts: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Take in the next values of the stream: [n]."""
        taken = values[self._skip :: self._stride]
        self._skip = (self._skip - len(values)) % self._stride
        self._parts.append(taken)
        self._size += len(taken)
        if self._size > 2 * self._limit:
            self._thin()

    def values(self) -> np.ndarray:
        """Return the values kept, in order."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0)

    def _thin(self) -> None:
        values = self.values()
        # The next value to be taken is an even number of the new strides after the first.
        if len(values) % 2:
            self._skip += self._stride
        self._stride *= 2
        self._parts = [values[::2].copy()]
        self._size = len(self._parts[0])


class _IdCounts:
    """Rows of each id; memory grows with the ids, not with the rows."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._pending = 0
        self._merged = 0

    def add(self, ids: pa.ChunkedArray) -> None:
        counted = pa.Table.from_struct_array(ids.value_counts())
        self._parts.append(counted.rename_columns(["id", "rows"]))
        self._pending += counted.num_rows
        if self._pending > self._merged + 1_000_000:
            self.merged()

    def merged(self) -> pa.Table:
        """Return a table of id and rows, each id once."""
        if not self._parts:
            return pa.table({"id": pa.array([], pa.string()), "rows": pa.array([], pa.int64())})
        table = pa.concat_tables(self._parts).group_by("id").aggregate([("rows", "sum")])
        table = table.select(["id", "rows_sum"]).rename_columns(["id", "rows"])
        self._parts, self._pending, self._merged = [table], 0, table.num_rows
        return table

    def heaviest(self) -> list[dict[str, Any]]:
        ordered = self.merged().sort_by([("rows", "descending"), ("id", "ascending")])
        return ordered.slice(0, NUM_HEAVIEST).to_pylist()


class _TableSummary:
    """Rows, rejects, odd values and nulls of a table that comes in batches."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._present: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()

    @classmethod
    def of(cls, validated: Validated) -> "_TableSummary":
        summary = cls()
        summary.add(validated)
        return summary

    def add(self, validated: Validated) -> None:
        table = validated.accepted
        self.num_rows += table.num_rows
        self._reasons.update(validated.reasons)
        self._odd.update(validated.odd)
        for name, column in zip(table.column_names, table.columns, strict=True):
            self._present[name] += len(column) - column.null_count

    def result(self) -> dict[str, Any]:
        return {
            "rows": self.num_rows,
            "rejected": dict(self._reasons),
            "odd": dict(self._odd),
            "null_share": {
                name: 1 - present / max(self.num_rows, 1) for name, present in self._present.items()
            },
        }


class _EventSummary:
    """What only events have, beside the summary of a table."""

    def __init__(self) -> None:
        self._table = _TableSummary()
        self._users, self._items = _IdCounts(), _IdCounts()
        self._watch_ms = Sample()
        self._num_impressions = self._num_clicks = self._num_watched = 0
        self._watch_ms_sum = 0
        self._span: list[Any] = []

    def add(self, validated: Validated) -> None:
        self._table.add(validated)
        table = validated.accepted
        self._users.add(table["user_id"])
        self._items.add(table["item_id"])
        self._num_impressions += _sum(table["is_impression"])
        for name, column in zip(table.column_names, table.columns, strict=True):
            if name == "clicked":
                self._num_clicks += _sum(column)
            elif name == "watch_ms":
                self._add_watches(column)
            elif name == "event_time":
                self._add_times(column)

    def _add_watches(self, watch_ms: pa.ChunkedArray) -> None:
        known = watch_ms.drop_null()
        self._watch_ms.add(known.to_numpy())
        self._num_watched += len(known)
        self._watch_ms_sum += _sum(known)

    def _add_times(self, times: pa.ChunkedArray) -> None:
        extremes = pc.min_max(times).as_py()
        found = [time for time in extremes.values() if time is not None]
        if found or self._span:
            self._span = [min(self._span + found), max(self._span + found)]

    def result(self) -> dict[str, Any]:
        span = [time.isoformat() for time in self._span] or [None, None]
        return self._table.result() | {
            "impressions": self._num_impressions,
            "clicks": self._num_clicks,
            "users": self._users.merged().num_rows,
            "items": self._items.merged().num_rows,
            "first_time": span[0],
            "last_time": span[1],
            "watch_ms": self._watch_quantiles(),
            "heaviest_users": self._users.heaviest(),
            "heaviest_items": self._items.heaviest(),
        }

    def _watch_quantiles(self) -> dict[str, float]:
        if not self._num_watched:
            return {}
        values = np.quantile(self._watch_ms.values(), QUANTILES)
        quantiles = {
            f"p{100 * share:g}": float(value)
            for share, value in zip(QUANTILES, values, strict=True)
        }
        return {"mean": self._watch_ms_sum / self._num_watched, **quantiles}


def _sum(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)
