"""The events of one shard of users, user after user, with what follows from them alone.

This is what examples are made of: everything but catalogue rows, which the whole log decides.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artefacts import load_arrays, save_arrays
from recsys.data.columns import categories, encode_ids, flags, floats, integers, text_of
from recsys.data.examples import LEFT_OUT, TRAINING
from recsys.data.moments import Moments, event_moments
from recsys.data.splits import leave_one_out, split_by_time
from recsys.data.vocabulary import Vocabulary
from recsys.data.watches import positive_watches
from recsys.errors import DataError
from recsys.settings import RecsysSettings


@dataclass(frozen=True)
class ItemDurations:
    """Durations of the items table, for events that do not give one.

    Args:
        vocabulary: The items.
        duration_ms: int64 [N], -1 unknown.
    """

    vocabulary: Vocabulary
    duration_ms: np.ndarray

    @classmethod
    def of_table(cls, items: pa.Table) -> "ItemDurations":
        """Take them out of an items table."""
        vocabulary = Vocabulary.from_ids(items["item_id"].to_pylist())
        return cls(vocabulary, integers(items, "duration_ms"))

    def of_events(self, events: pa.Table) -> np.ndarray:
        """Return the duration of each event, its own or else its item's: int64 [E]."""
        own = integers(events, "duration_ms")
        if not (self.duration_ms > 0).any():
            return own
        of_item = np.append(self.duration_ms, -1)[self.vocabulary.rows(events["item_id"])]
        return np.where(own > 0, own, of_item)


@dataclass(frozen=True)
class UserLog:
    """Events of U users, each user's by moment, then sequence, then place in the log.

    Args:
        events: Validated events [E], without those that the split leaves out.
        searches: Validated searches [S], each user's by time.
        users: The users table [U], nulls where it does not know a user.
        user_ids: Bytes [U], ascending.
        offsets, search_offsets: int64 [U + 1].
        moments: Of the events.
        duration_ms: int64 [E], the event's own or else the item's, -1 unknown.
        watch_label: int8 [E], the column of the watch rule, -1 not given.
        is_watch: bool [E].
        split: int8 [E].
    """

    events: pa.Table
    searches: pa.Table
    users: pa.Table
    user_ids: np.ndarray
    offsets: np.ndarray
    search_offsets: np.ndarray
    moments: Moments
    duration_ms: np.ndarray
    watch_label: np.ndarray
    is_watch: np.ndarray
    split: np.ndarray

    def user_of_event(self) -> np.ndarray:
        """Return the user of each event: int64 [E]."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets))

    def user_of_search(self) -> np.ndarray:
        """Return the user of each search: int64 [S]."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.search_offsets))

    def save_tables(self, directory: Path) -> None:
        """Write what stays in the shard: the tables and the ids."""
        for name in ("events", "searches", "users"):
            table = getattr(self, name)
            pq.write_table(table, directory / f"{name}.parquet", compression="lz4")
        save_arrays(directory, {"user_ids": self.user_ids})

    def save_arrays(self, directory: Path) -> None:
        """Write what the rest of the preparation needs beside the tables."""
        names = ("offsets", "search_offsets", "duration_ms", "watch_label", "is_watch", "split")
        arrays = {name: getattr(self, name) for name in names}
        moments = {f"moments/{name}": values for name, values in vars(self.moments).items()}
        save_arrays(directory, arrays | moments)

    @classmethod
    def load(cls, tables: Path, arrays: Path) -> "UserLog":
        """Read what `save_tables` and `save_arrays` wrote."""
        loaded = load_arrays(arrays)
        moments = Moments(
            **{name: loaded.pop(f"moments/{name}") for name in Moments.__dataclass_fields__}
        )
        events = pq.read_table(tables / "events.parquet", read_dictionary=["item_id"])
        searches, users = (
            pq.read_table(tables / f"{name}.parquet") for name in ("searches", "users")
        )
        user_ids = np.load(tables / "user_ids.npy", allow_pickle=False)
        return cls(
            events=events,
            searches=searches,
            users=users,
            user_ids=user_ids,
            moments=moments,
            **loaded,
        )


def sort_user_log(
    events: pa.Table,
    searches: pa.Table,
    users: pa.Table,
    durations: ItemDurations,
    settings: RecsysSettings,
) -> UserLog:
    """Order a shard by user and moment, and decide splits and watches.

    Args:
        events, searches, users: Validated rows of whole users, in the order of the log.
        durations: Of the items table.
        settings: Their `data.watch` and `split` are used.
    """
    events, moments, split = _kept_events(events, settings)
    user_ids, number = encode_ids(
        pa.chunked_array([*events["user_id"].chunks, *searches["user_id"].chunks], pa.string())
    )
    number, search_number = number[: len(events)], number[len(events) :]
    order = np.lexsort((integers(events, "sequence", 0), moments.event, number))
    events, moments, split = events.take(pa.array(order)), moments.take(order), split[order]
    search_order = np.lexsort((integers(searches, "event_time"), search_number))
    offsets = _offsets(number, len(user_ids))
    duration_ms = durations.of_events(events)
    label = watch_labels(events, settings.data.watch.column)
    watch_ms = integers(events, "watch_ms")
    is_watch = positive_watches(settings.data.watch, watch_ms, duration_ms, label)
    if settings.split.kind == "leave_one_out":
        split = leave_one_out(offsets, is_watch)
    return UserLog(
        events=events,
        searches=searches.take(pa.array(search_order)),
        users=_aligned_users(users, user_ids),
        user_ids=user_ids,
        offsets=offsets,
        search_offsets=_offsets(search_number, len(user_ids)),
        moments=moments,
        duration_ms=duration_ms,
        watch_label=label,
        is_watch=is_watch,
        split=split,
    )


def watch_labels(events: pa.Table, column: str | None) -> np.ndarray:
    """Return the column of the watch rule: int8 [E], -1 where there is none."""
    if column is None:
        return np.full(len(events), -1, np.int8)
    return flags(events, required(events, column, "data.watch.column"))


def required(events: pa.Table, column: str, key: str) -> str:
    """Return the name of a configured column of the events.

    Raises:
        DataError: They do not have it.
    """
    if column not in events.column_names:
        raise DataError(
            f"{key}: no column {column!r} among the events, found {events.column_names}; "
            f"name one of these, or leave the setting out"
        )
    return column


def user_column(log: UserLog, name: str) -> tuple[pa.ChunkedArray | None, pa.ChunkedArray | None]:
    """Return a column of the events and of the users, None where one has none.

    Raises:
        DataError: Neither has it.
    """
    of_events = log.events[name] if name in log.events.column_names else None
    of_users = log.users[name] if name in log.users.column_names else None
    if of_events is None and of_users is None:
        known = sorted({*log.events.column_names, *log.users.column_names})
        raise DataError(
            f"column {name!r} is configured as a feature, but neither the events nor the users "
            f"have it; they have {known}"
        )
    return of_events, of_users


def column_codes(log: UserLog, name: str, vocabulary: Vocabulary) -> np.ndarray:
    """Return the codes of a categorical column, the event's or else the user's: int32 [E]."""
    of_events, of_users = user_column(log, name)
    codes = np.zeros(len(log.events), np.int32)
    missing = np.ones(len(log.events), bool)
    if of_events is not None:
        spelled = categories(of_events)
        codes = vocabulary.codes(spelled)
        missing = spelled.is_null().to_numpy(zero_copy_only=False)
    if of_users is not None and missing.any():
        codes = np.where(
            missing, vocabulary.codes(categories(of_users))[log.user_of_event()], codes
        )
    return codes


def column_counts(log: UserLog, name: str, counted: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Count the categories of a column among the counted events.

    Args:
        log: The shard.
        name: A column of the events, or else of the users.
        counted: bool [E].

    Returns:
        The categories [n], not all distinct, and int64 [n].
    """
    of_events, of_users = user_column(log, name)
    values, counts = [], []
    missing = counted
    if of_events is not None:
        spelled = categories(of_events)
        missing = counted & spelled.is_null().to_numpy(zero_copy_only=False)
        values.append(spelled.dictionary)
        counts.append(_count_positions(spelled, (counted & ~missing).astype(np.int64)))
    if of_users is not None and missing.any():
        spelled = categories(of_users)
        per_user = np.bincount(log.user_of_event()[missing], minlength=len(log.user_ids))
        values.append(spelled.dictionary)
        counts.append(_count_positions(spelled, per_user))
    return pa.concat_arrays(values), np.concatenate(counts)


def column_numbers(log: UserLog, name: str) -> np.ndarray:
    """Return a numeric column, the event's or else the user's: float32 [E], NaN missing."""
    user_column(log, name)
    own = floats(log.events, name)
    return np.where(np.isnan(own), floats(log.users, name)[log.user_of_event()], own)


def event_ages(log: UserLog) -> np.ndarray:
    """Return the age of the user at each event, in years: float32 [E], NaN unknown.

    From a column `age` of the event or the user, or else the user's `birth_year`.
    """
    user = log.user_of_event()
    own = floats(log.events, "age")
    stated = np.where(np.isnan(own), floats(log.users, "age")[user], own)
    born = floats(log.users, "birth_year")[user]
    return ages(stated, born, log.moments.event, log.moments.has_time)


def ages(
    age: np.ndarray, birth_year: np.ndarray, moment: np.ndarray, has_time: np.ndarray
) -> np.ndarray:
    """Return ages in years, from the year of the moment where they are not stated.

    Args:
        age, birth_year: float32 [E], NaN unknown.
        moment: int64 [E]; `has_time`: bool [E].

    Returns:
        float32 [E], NaN unknown.
    """
    year = moment.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970
    computed = np.where(has_time, (year - birth_year).astype(np.float32), np.nan)
    return np.where(np.isnan(age), computed, age).astype(np.float32)


def _kept_events(
    events: pa.Table, settings: RecsysSettings
) -> tuple[pa.Table, Moments, np.ndarray]:
    """Drop the events that a time split leaves out; return the others' moments and splits."""
    moments = event_moments(events)
    if settings.split.kind == "leave_one_out":
        return events, moments, np.full(len(events), TRAINING, np.int8)
    split = split_by_time(settings.split, events, moments)
    kept = split != LEFT_OUT
    return events.filter(pa.array(kept)), moments.take(kept), split[kept]


def _offsets(number: np.ndarray, num_users: int) -> np.ndarray:
    counts = np.bincount(number, minlength=num_users)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _aligned_users(users: pa.Table, user_ids: np.ndarray) -> pa.Table:
    """Return the users table in the order of the ids, nulls for users it does not have."""
    row = Vocabulary.from_ids(users["user_id"].to_pylist()).rows(text_of(user_ids))
    aligned = users.take(pa.array(np.where(row < 0, 0, row), mask=row < 0))
    return aligned.set_column(
        aligned.column_names.index("user_id"), "user_id", text_of(user_ids)
    ).combine_chunks()


def _count_positions(spelled: pa.DictionaryArray, weights: np.ndarray) -> np.ndarray:
    position = spelled.indices.fill_null(len(spelled.dictionary)).to_numpy(zero_copy_only=False)
    size = len(spelled.dictionary) + 1
    return np.bincount(position, weights, size)[:-1].astype(np.int64)
