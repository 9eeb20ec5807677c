"""The log of answers, joined with events: impressions get the place, the propensity and the policy
that the answer gave their item."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.answer_files import ANSWERS, answer_files
from recsys.errors import DataError

OF_ANSWER = ("request_id", "policy", "surface", "device", "country", "language", "logged_in")
OF_ITEM = ("position", "propensity", "candidate_score", "candidate_rank")
KEY = ["user_id", "request_id", "item_id"]
NONE = -1


def read_shown(directory: Path, first: int, last: int) -> pa.Table:
    """Return the items of the answers of all files that reach into a span of moments.

    Returns:
        A row an item: `user_id`, `item_id`, `answer_time`, `bundle_id`, and the columns of
        `OF_ANSWER` and `OF_ITEM`; of one request only the first answer.

    Raises:
        DataError: A file cannot be read.
    """
    tables = [
        _shown(path)
        for path, (begin, end) in answer_files(directory).items()
        if begin <= last and end >= first
    ]
    table = pa.concat_tables([_explode(ANSWERS.empty_table()), *tables])
    return table.sort_by("answer_time")


def join_answers(events: pa.Table, shown: pa.Table, max_age: timedelta) -> pa.Table:
    """Give impressions what the answers say of them; columns that they have already stay.

    An impression that names its request belongs to that answer, any other to the user's latest
    answer before it that holds the item, if there is one of at most `max_age`.

    Args:
        events: Of the data contract, with `event_time`.
        shown: As `read_shown` returns it.
        max_age: Of an answer at the time of the impression.
    """
    row = _match(events, shown, max_age)
    found = pa.array(row, mask=row == NONE)
    for name in (*OF_ANSWER, *OF_ITEM, "bundle_id"):
        values = shown[name].combine_chunks().take(found)
        if name in events.column_names:
            own = events[name].cast(values.type)
            position = events.column_names.index(name)
            events = events.set_column(position, name, pc.coalesce(own, pa.chunked_array([values])))
        else:
            events = events.append_column(name, values)
    return events


def _match(events: pa.Table, shown: pa.Table, max_age: timedelta) -> np.ndarray:
    """Return the row of `shown` that each event is an impression of: int64 [E], -1 none."""
    named = events.column_names
    columns = {
        name: events[name] if name in named else pa.nulls(len(events), pa.string()) for name in KEY
    }
    left = pa.table(columns).to_pandas()
    left["time"] = events["event_time"].cast(pa.int64()).to_numpy()
    left["event"] = np.arange(len(left))
    if "is_impression" in named:
        left = left[pc.fill_null(events["is_impression"], True).to_numpy().astype(bool)]
    right = shown.select(KEY).to_pandas()
    right["time"] = shown["answer_time"].cast(pa.int64()).to_numpy()
    right["row"] = np.arange(len(right))
    row = np.full(len(events), NONE, np.int64)
    for matched in _matches(left, right, max_age):
        matched = matched.dropna(subset="row")
        row[matched["event"].to_numpy()] = matched["row"].to_numpy().astype(np.int64)
    return row


def _matches(left: pd.DataFrame, right: pd.DataFrame, max_age: timedelta) -> Iterable[pd.DataFrame]:
    has_request = left["request_id"].notna()
    first_answers = right.drop_duplicates(KEY)[[*KEY, "row"]]
    yield left[has_request].merge(first_answers, on=KEY, how="left")
    yield pd.merge_asof(
        left[~has_request].drop(columns="request_id").sort_values("time"),
        right.drop(columns="request_id").sort_values("time"),
        on="time",
        by=["user_id", "item_id"],
        tolerance=max_age // timedelta(microseconds=1),
    )


def _shown(path: Path) -> pa.Table:
    try:
        return _explode(
            pq.read_table(path, columns=_needed()).cast(pa.schema(map(_field, _needed())))
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: expected a file of the log of answers, but {error}; move it elsewhere"
        ) from error


def _needed() -> list[str]:
    return ["user_id", "answer_time", "bundle_id", *OF_ANSWER, "items"]


def _field(name: str) -> pa.Field:
    return ANSWERS.field(name)


def _explode(answers: pa.Table) -> pa.Table:
    """Return a row for each item of each answer."""
    lists = answers["items"].combine_chunks()
    answer, items = pc.list_parent_indices(lists), pc.list_flatten(lists)
    columns = {
        name: answers[name].combine_chunks().take(answer) for name in _needed() if name != "items"
    }
    return pa.table(columns | {name: items.field(name) for name in ("item_id", *OF_ITEM)})
