"""Write a store's recorded events as a log by the data contract, for the next training."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artefacts import new_directory
from recsys.data import schema
from recsys.progress import progress
from recsys.state import UNKNOWN, UserEvents
from serving.event_log import LogBatch
from serving.store import StateStore

FILE = "events.parquet"
EVENTS = pa.schema(
    [
        *[
            schema.EVENTS.field(name)
            for name in (
                "user_id",
                "item_id",
                "event_id",
                "event_time",
                "outcome_time",
                "is_impression",
                "clicked",
                "watch_ms",
                "request_id",
            )
        ],
        ("watch_label", pa.bool_()),
    ]
)


def main(store: StateStore, out: Path, *, since: int = 0, until: int | None = None) -> int:
    """Write the events from one moment to another (microseconds); return how many.

    Args:
        store: Read as of one moment; servers may go on writing to it.
        out: A directory, replaced whole where it is there already.
        since: Events that began earlier are left out.
        until: So are those that began then or later.
    """
    number = 0
    with (
        new_directory(out) as directory,
        progress("export events") as task,
        pq.ParquetWriter(
            directory / FILE, schema.with_version(EVENTS.empty_table()).schema
        ) as file,
        store.read_log(since) as log,
    ):
        for table in _tables(log.batches, until):
            file.write_table(table.replace_schema_metadata(file.schema.metadata))
            number += len(table)
            task.advance(len(table))
    return number


def _tables(batches: Iterator[LogBatch], until: int | None) -> Iterator[pa.Table]:
    for batch in batches:
        table = _to_table(batch)
        if until is not None:
            table = table.filter(pa.array(batch.events.moment < until))
        if len(table):
            yield table


def _to_table(batch: LogBatch) -> pa.Table:
    events = batch.events
    columns = {
        "user_id": batch.user_ids,
        "item_id": _texts(events.item_id),
        "event_id": _texts(events.event_id),
        "event_time": pa.array(events.moment, schema.TIME),
        "outcome_time": _outcome_times(events),
        "is_impression": events.is_impression,
        "clicked": _flags(events.clicked),
        "watch_ms": pa.array(events.watch_ms, mask=events.watch_ms == UNKNOWN),
        "request_id": [request_id or None for request_id in batch.request_ids],
        "watch_label": _flags(events.watch_label),
    }
    return pa.table(columns, schema=EVENTS)


def _outcome_times(events: UserEvents) -> pa.Array:
    return pa.array(events.outcome_moment, schema.TIME)


def _texts(values: np.ndarray) -> list[str]:
    return [value.decode() for value in values.tolist()]


def _flags(values: np.ndarray) -> pa.Array:
    return pa.array(values == 1, mask=values == UNKNOWN)
