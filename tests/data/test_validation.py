import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import schema
from recsys.data.validation import (
    check_rejected_share,
    parse_time,
    reject_duplicates,
    validate_events,
    validate_items,
    validate_searches,
    validate_users,
)
from recsys.errors import ConfigError, DataError
from recsys.settings import DataSettings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = DataSettings(source="table")


def events(**columns):
    """Events that are right but for the given columns."""
    num_rows = len(next(iter(columns.values()))) if columns else 2
    right = {
        "user_id": [f"u{k}" for k in range(num_rows)],
        "item_id": [f"i{k}" for k in range(num_rows)],
        "event_time": pa.array([NOON] * num_rows, pa.timestamp("us", tz="UTC")),
    }
    return pa.table({**right, **columns})


def reasons(**columns):
    validated = validate_events(events(**columns), SETTINGS)
    assert len(validated.rejected) == sum(validated.reasons.values())
    assert len(validated.accepted) + len(validated.rejected) == len(events(**columns))
    return validated.reasons


def test_right_events_are_accepted_in_contract_order():
    raw = events(extra=[1.5, 2.5], watch_ms=pa.array([1, None], pa.int32()))
    accepted = validate_events(raw, SETTINGS).accepted
    names = ["user_id", "item_id", "event_time", "is_impression", "watch_ms", "extra"]
    assert accepted.column_names == names
    assert accepted["watch_ms"].type == pa.int64()
    assert accepted["is_impression"].to_pylist() == [True, True]


def test_null_is_impression_is_true():
    accepted = validate_events(events(is_impression=[None, False]), SETTINGS).accepted
    assert accepted["is_impression"].to_pylist() == [True, False]


@pytest.mark.parametrize("name", ["user_id", "item_id"])
def test_missing_column_names_the_file(name):
    raw = schema.with_origin(events().drop_columns([name]), "mine.parquet", is_text=False)
    with pytest.raises(DataError, match=rf"mine\.parquet.*missing \['{name}'\]"):
        validate_events(raw, SETTINGS)


def test_neither_time_nor_order_column_is_refused():
    with pytest.raises(DataError, match="'event_time' or 'sequence'"):
        validate_events(events().drop_columns(["event_time"]), SETTINGS)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("user_id", [7.0, 8.0]),
        ("item_id", [7, 8]),
        ("watch_ms", ["7", "8"]),
        ("event_time", [1, 2]),
    ],
)
def test_mistyped_column_says_expected_and_got(name, values):
    raw = events(**{name: values})
    with pytest.raises(DataError, match=f"column '{name}': expected .*, got {raw[name].type}"):
        validate_events(raw, SETTINGS)


def test_column_named_twice_is_refused():
    raw = events()
    with pytest.raises(DataError, match="named twice"):
        validate_events(raw.append_column("user_id", raw["user_id"]), SETTINGS)


def test_bad_ids_are_rejected_with_their_reason():
    ids = ["ok", None, "", "x" * 128, "x" * 129, "a\0b", "\u00e9" * 64, "\u00e9" * 65]
    assert reasons(user_id=ids) == {
        "user_id is null": 1,
        "user_id is empty": 1,
        "user_id is longer than 128 bytes": 2,
        "user_id holds a NUL": 1,
    }


def test_id_that_is_not_utf8_is_rejected():
    raw = pa.array([b"ok", b"\xff\xfe", None], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    assert reasons(item_id=broken) == {"item_id is not UTF-8": 1, "item_id is null": 1}


def test_optional_id_may_be_null_but_not_empty():
    assert reasons(event_id=[None, ""]) == {"event_id is empty": 1}


def test_zeros_before_an_id_are_kept():
    accepted = validate_events(events(user_id=["007", "7"]), SETTINGS).accepted
    assert accepted["user_id"].to_pylist() == ["007", "7"]


def test_negative_values_are_rejected_and_zero_is_not():
    assert reasons(watch_ms=[-1, 0]) == {"watch_ms is negative": 1}
    assert reasons(duration_ms=[-1, 1]) == {"duration_ms is negative": 1}
    assert reasons(position=[-1, 0]) == {"position is negative": 1}


def test_value_that_does_not_fit_its_type_is_rejected():
    assert reasons(position=[40_000, 3]) == {"position is not a valid int16": 1}


def test_propensity_is_a_positive_probability():
    values = [0.0, 1.0, 1.1, None, float("nan"), 1e-9]
    assert reasons(propensity=values) == {"propensity is not in (0, 1]": 3}


def test_split_date_has_one_form():
    assert reasons(split_date=["20220501", "2022-05-01", None]) == {"split_date is not YYYYMMDD": 1}


def test_row_without_time_needs_a_sequence():
    times = pa.array([None, None, NOON], pa.timestamp("us", tz="UTC"))
    found = reasons(event_time=times, sequence=[1, None, None])
    assert found == {"neither event_time nor sequence": 1}


def test_outcome_before_its_event_is_rejected():
    outcome = pa.array([NOON - timedelta(seconds=1), NOON, None], pa.timestamp("us", tz="UTC"))
    assert reasons(outcome_time=outcome) == {"outcome_time before event_time": 1}


def test_times_outside_the_span_are_rejected_and_its_ends_are_not():
    step = timedelta(microseconds=1)
    moments = [NOON - step, NOON, NOON + timedelta(hours=1), NOON + timedelta(hours=1) + step]
    limits = DataSettings(
        source="table", earliest_time="2026-01-01T12:00:00", latest_time="2026-01-01T14:00:00+01:00"
    )
    raw = events(event_time=pa.array(moments, pa.timestamp("us", tz="UTC")))
    assert validate_events(raw, limits).reasons == {
        "event_time before data.earliest_time": 1,
        "event_time after data.latest_time": 1,
    }


def test_rejected_row_comes_as_it_was_with_its_first_reason():
    raw = events(user_id=["", "u"], watch_ms=pa.array([-1.0, 5.0]), note=["kept", "gone"])
    validated = validate_events(raw, SETTINGS)
    (row,) = validated.rejected.to_pylist()
    assert (row["watch_ms"], row["note"], row["reason"]) == (-1.0, "kept", "user_id is empty")
    assert validated.accepted["user_id"].to_pylist() == ["u"]


def test_odd_watches_are_counted_and_kept():
    raw = events(watch_ms=[10, 11, 101, 5, None], duration_ms=[10, 10, 10, 0, 7])
    validated = validate_events(raw, SETTINGS)
    assert validated.odd == {
        "duration_zero": 1,
        "watched_beyond_duration": 2,
        "watched_beyond_ten_times": 1,
    }
    assert validated.accepted["duration_ms"].to_pylist() == [10, 10, 10, None, 7]


def test_empty_batch_is_accepted():
    validated = validate_events(events().slice(0, 0), SETTINGS)
    assert (len(validated.accepted), len(validated.rejected)) == (0, 0)


def test_event_with_a_known_id_is_a_duplicate_whatever_else_it_says():
    raw = events(user_id=["u", "u", "v"], event_id=["e", "e", "e"], item_id=["a", "b", "a"])
    validated = reject_duplicates(validate_events(raw, SETTINGS).accepted)
    assert validated.accepted["user_id"].to_pylist() == ["u", "v"]
    assert validated.accepted["item_id"].to_pylist() == ["a", "a"]
    assert validated.reasons == {"duplicate event": 1}


def test_same_user_item_and_time_is_a_duplicate_only_without_ids():
    raw = events(
        user_id=["u"] * 4, item_id=["a"] * 4, event_id=["e", "f", None, None], watch_ms=[1, 2, 3, 4]
    )
    kept = reject_duplicates(validate_events(raw, SETTINGS).accepted).accepted
    assert kept["watch_ms"].to_pylist() == [1, 2, 3]


def test_sequence_tells_equal_times_apart():
    raw = events(user_id=["u"] * 3, item_id=["a"] * 3, sequence=[1, 2, 2])
    assert reject_duplicates(validate_events(raw, SETTINGS).accepted).reasons == {
        "duplicate event": 1
    }


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=40))
def test_duplicates_equal_those_of_a_set(keys):
    raw = pa.table(
        {
            "user_id": pa.array([f"u{key[0]}" for key in keys], pa.string()),
            "item_id": pa.array([f"i{key[1]}" for key in keys], pa.string()),
            "sequence": pa.array([key[2] for key in keys], pa.int64()),
            "row": np.arange(len(keys)),
        }
    )
    kept = reject_duplicates(raw).accepted["row"].to_pylist()
    assert kept == [row for row, key in enumerate(keys) if key not in keys[:row]]


def test_rejected_share_stops_beyond_the_limit():
    limit = DataSettings(source="table", max_rejected_share=0.1)
    check_rejected_share(10, 100, limit)
    check_rejected_share(0, 0, limit)
    with pytest.raises(DataError, match=r"11 of 100 rows \(11.0%\).*at most 10.0%"):
        check_rejected_share(11, 100, limit)


def test_searches_need_time_and_query():
    raw = pa.table(
        {
            "user_id": ["u", "u", None, "u"],
            "event_time": pa.array([NOON, None, NOON, NOON], pa.timestamp("us", tz="UTC")),
            "query": ["cats", "cats", "cats", None],
        }
    )
    validated = validate_searches(raw, SETTINGS)
    assert validated.accepted.num_rows == 1
    assert validated.reasons == {
        "user_id is null": 1,
        "event_time is null": 1,
        "query is null": 1,
    }


def test_first_of_items_with_one_id_is_kept():
    raw = pa.table({"item_id": ["a", "b", "a", None], "title": ["1", "2", "3", "4"]})
    validated = validate_items(raw)
    assert validated.accepted["title"].to_pylist() == ["1", "2"]
    assert validated.reasons == {"duplicate item_id": 1, "item_id is null": 1}


def test_item_that_is_never_available_is_rejected():
    times = pa.array([NOON, None], pa.timestamp("us", tz="UTC"))
    raw = pa.table({"item_id": ["a", "b"], "available_from": times, "available_until": times})
    assert validate_items(raw).accepted["item_id"].to_pylist() == ["b"]


def test_item_of_duration_zero_has_an_unknown_one():
    validated = validate_items(pa.table({"item_id": ["a", "b"], "duration_ms": [0, 5]}))
    assert validated.accepted["duration_ms"].to_pylist() == [None, 5]
    assert validated.odd == {"duration_zero": 1}


def test_first_of_users_with_one_id_is_kept():
    raw = pa.table({"user_id": ["a", "a"], "birth_year": pa.array([1980, 1990], pa.int32())})
    validated = validate_users(raw)
    assert validated.accepted.to_pylist() == [{"user_id": "a", "birth_year": 1980}]


def test_time_of_the_settings_without_zone_is_utc(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    monkeypatch.undo()
    found = parse_time("2026-01-01T12:00:00", "key")
    time.tzset()
    assert found == NOON


def test_time_of_the_settings_is_checked():
    assert parse_time("2026-01-01T13:00:00+01:00", "key") == NOON
    assert parse_time(None, "key") is None
    with pytest.raises(ConfigError, match="data.earliest_time"):
        parse_time("yesterday", "data.earliest_time")
