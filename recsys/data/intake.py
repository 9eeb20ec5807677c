"""Reads a whole log once, batch by batch: checks it, spreads it over shards, finds its cuts."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.examples import LEFT_OUT, TEST, TRAINING
from recsys.data.log import Log
from recsys.data.moments import event_moments
from recsys.data.partition import Partitions
from recsys.data.schema import USERS
from recsys.data.splits import cut_moment, split_by_time
from recsys.data.validation import (
    Validated,
    check_rejected_share,
    validate_events,
    validate_items,
    validate_searches,
    validate_users,
)
from recsys.errors import DataError
from recsys.progress import progress
from recsys.settings import DataSettings, RecsysSettings

LATEST = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Cuts:
    """Moments that divide the whole log.

    Args:
        training_until: From here on something is held out of training.
        data_until: A bundle knows what was known strictly before. With a time split this is the
            start of the test part; with leave-one-out, which has no such moment, the end of the
            log. Without a test part, the end of the log as well.
    """

    training_until: int
    data_until: int


@dataclass
class Tally:
    """What was read so far, by table."""

    rows: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, validated: Validated) -> None:
        """Count a batch of the table `name`."""
        self.rows[name] += len(validated.accepted) + len(validated.rejected)
        self.rejected.update({f"{name}: {key}": n for key, n in validated.reasons.items()})
        self.odd.update({f"{name}: {key}": n for key, n in validated.odd.items()})

    def reject(self, name: str, reason: str, num_rows: int) -> None:
        """Count rows of the table `name` that turned out wrong only later."""
        if num_rows:
            self.rejected[f"{name}: {reason}"] += num_rows

    def check(self, name: str, settings: DataSettings) -> None:
        """Stop the run if it would lose too much of a table.

        Raises:
            DataError: More than `max_rejected_share` of its rows were rejected, and why.
        """
        reasons = {key: n for key, n in self.rejected.items() if key.startswith(f"{name}: ")}
        try:
            check_rejected_share(sum(reasons.values()), self.rows[name], settings)
        except DataError as error:
            # A failed step leaves no directory to look into, so the reasons are told here.
            told = "; ".join(f"{key}: {n:,} rows" for key, n in reasons.items())
            raise DataError(f"{error}. Reasons: {told}") from None


class Rejects:
    """Writes rejected rows below `rejected/`, a file a batch that has any."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._num_files: Counter[str] = Counter()

    def write(self, name: str, rejected: pa.Table) -> None:
        """Write the rejected rows of one batch of the table `name`."""
        if len(rejected) == 0:
            return
        path = self._directory / f"{name}-{self._num_files[name]:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rejected, path)
        self._num_files[name] += 1


class _Edges:
    """First held-out moment, first test moment and last moment of the events seen so far."""

    def __init__(self, settings: RecsysSettings) -> None:
        self._split = settings.split
        self.first_held_out = self.first_test = LATEST
        self.first, self.last = LATEST, -LATEST

    def see(self, events: pa.Table) -> None:
        moments = event_moments(events)
        split = np.full(len(events), TRAINING)
        if self._split.kind == "time":
            split = split_by_time(self._split, events, moments)
        kept = split != LEFT_OUT
        self.first = _smallest(moments.event[kept], self.first)
        self.first_held_out = _smallest(moments.event[split > TRAINING], self.first_held_out)
        self.first_test = _smallest(moments.event[split == TEST], self.first_test)
        self.last = -_smallest(-moments.outcome[kept], -self.last)

    def cuts(self) -> Cuts:
        if self._split.kind == "leave_one_out":
            return Cuts(LATEST, self.last + 1)
        validation_from = cut_moment(self._split.validation_from, self.first_held_out)
        test_from = cut_moment(self._split.test_from, self.first_test)
        return Cuts(
            training_until=min(validation_from, test_from),
            data_until=test_from if test_from < LATEST else self.last + 1,
        )


@dataclass(frozen=True)
class Intake:
    """What came of reading a log; its events, searches and users lie in `Partitions`.

    Args:
        items, users: Validated tables.
        cuts: Of the whole log.
        tally: Rows, rejects and odd values.
        span: First and last moment of the events.
    """

    items: pa.Table
    users: pa.Table
    cuts: Cuts
    tally: Tally
    span: tuple[int, int]


def take_in(log: Log, settings: RecsysSettings, scratch: Path, rejects: Rejects) -> Intake:
    """Read a log into `events/`, `searches/` and `users/` below a scratch directory.

    Args:
        log: Read once, a batch at a time.
        settings: Of the whole run.
        scratch: Where the partitions are written.
        rejects: Takes the rows that break the contract.

    Raises:
        DataError: Too many rows break it, or none is left.
    """
    tally, edges = Tally(), _Edges(settings)

    def accepted(name: str, validated: Validated) -> pa.Table:
        tally.add(name, validated)
        rejects.write(name, validated.rejected)
        return validated.accepted

    events = Partitions(scratch / "events", settings.data.shards)
    for table in _batches(log.events, "events"):
        kept = accepted("events", validate_events(table, settings.data))
        edges.see(kept)
        events.write(kept)
    searches = Partitions(scratch / "searches", settings.data.shards)
    for table in _batches(log.searches, "searches"):
        searches.write(accepted("searches", validate_searches(table, settings.data)))
    items = _no_items() if log.items is None else accepted("items", validate_items(log.items))
    users = USERS.empty_table().select(["user_id"])
    if log.users is not None:
        users = accepted("users", validate_users(log.users))
    Partitions(scratch / "users", settings.data.shards).write(users)
    for name in tally.rows:
        tally.check(name, settings.data)
    if edges.last < edges.first:
        raise DataError(
            f"{settings.data.path}: expected events to learn from, found none among "
            f"{tally.rows['events']:,} rows; look at the path and at split.test_until"
        )
    return Intake(items, users, edges.cuts(), tally, (edges.first, edges.last))


def _batches(tables: Callable[[], Iterator[pa.Table]], name: str) -> Iterator[pa.Table]:
    with progress(f"read {name}") as task:
        for table in tables():
            yield table
            task.advance(len(table))


def _no_items() -> pa.Table:
    return pa.table({"item_id": pa.array([], pa.string())})


def _smallest(values: np.ndarray, so_far: int) -> int:
    return min(int(values.min()), so_far) if len(values) else so_far
