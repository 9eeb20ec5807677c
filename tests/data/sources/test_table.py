from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.sources import open_log
from recsys.data.sources.table import log_from_rows
from recsys.data.validation import validate_events, validate_items
from recsys.errors import ConfigError, DataError
from recsys.settings import DataSettings

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = int(MOMENT.timestamp())
COLUMNS = {"user_id": "uid", "item_id": "vid", "event_time": "ts"}


def settings(path=None, **options):
    return DataSettings(source="table", path=None if path is None else str(path), options=options)


def checked(log):
    return [validate_events(table, settings()) for table in log.events()]


def rows_of(frame, **options):
    (validated,) = checked(log_from_rows(frame, settings(**options)))
    assert validated.reasons == {}
    return validated.accepted.to_pylist()


def frame(**columns):
    return pa.table({"user_id": ["u"], "item_id": ["i"], "event_time": [MOMENT], **columns})


def test_csv_by_mapping_keeps_ids_and_further_columns(tmp_path):
    (tmp_path / "log.csv").write_text(f"uid,vid,ts,mood\n007,a,{SECONDS},glad\n")
    log = open_log(settings(tmp_path / "log.csv", columns=COLUMNS, time_unit="s"), 0)
    ((validated),) = checked(log)
    assert validated.accepted.to_pylist() == [
        {
            "user_id": "007",
            "item_id": "a",
            "event_time": MOMENT,
            "is_impression": True,
            "mood": "glad",
        }
    ]


def test_bad_csv_values_are_rejected_one_by_one(tmp_path):
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,event_time,watch_ms\n"
        f"u,a,{SECONDS},5\nu,b,soon,5\nu,c,{SECONDS},long\n,d,{SECONDS},5\n"
    )
    log = open_log(settings(tmp_path / "log.csv", time_unit="s"), 0)
    (validated,) = checked(log)
    assert validated.accepted["item_id"].to_pylist() == ["a"]
    assert validated.accepted["event_time"].to_pylist() == [MOMENT]
    assert validated.reasons == {
        "event_time is not a valid timestamp[us, tz=UTC]": 1,
        "watch_ms is not a valid int64": 1,
        "user_id is null": 1,
    }
    assert validated.rejected["event_time"].to_pylist()[0] == "soon"


@pytest.mark.parametrize(
    ("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)]
)
def test_numbers_are_times_of_the_stated_unit(unit, factor):
    (row,) = rows_of(frame(event_time=[SECONDS * factor]), time_unit=unit)
    assert row["event_time"] == MOMENT


def test_fractions_of_seconds_are_kept():
    (row,) = rows_of(frame(event_time=[SECONDS + 0.25]), time_unit="s")
    assert row["event_time"].microsecond == 250_000


def test_times_without_zone_are_refused_unless_told():
    naive = frame(event_time=[MOMENT.replace(tzinfo=None)])
    with pytest.raises(DataError, match="naive_times_are_utc"):
        checked(log_from_rows(naive, settings()))
    (row,) = rows_of(naive, naive_times_are_utc=True)
    assert row["event_time"] == MOMENT


@pytest.mark.parametrize(
    "text", ["2026-01-01", "2026-01-01T00:00:00", "2026-01-01 01:00:00+01:00", "2026-01-01T00:00Z"]
)
def test_text_times_are_read(tmp_path, text):
    (tmp_path / "log.csv").write_text(f"user_id,item_id,event_time\nu,a,{text}\n")
    log = open_log(settings(tmp_path / "log.csv", naive_times_are_utc=True), 0)
    (validated,) = checked(log)
    assert validated.accepted["event_time"].to_pylist() == [MOMENT]


def test_text_times_without_zone_are_rejected_unless_told(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,event_time\nu,a,2026-01-01T00:00:00\n")
    (validated,) = checked(open_log(settings(tmp_path / "log.csv"), 0))
    assert list(validated.reasons) == ["event_time is not a valid timestamp[us, tz=UTC]"]


def test_integers_are_ids_only_if_told():
    numbers = frame(user_id=[7], surface=[3])
    with pytest.raises(DataError, match="integers_as_text"):
        checked(log_from_rows(numbers, settings()))
    (row,) = rows_of(numbers, integers_as_text=True)
    assert (row["user_id"], row["surface"]) == ("7", "3")


def test_float_ids_are_refused_whatever_is_told():
    with pytest.raises(DataError, match="floats cannot be ids"):
        checked(log_from_rows(frame(user_id=[7.0]), settings(integers_as_text=True)))


def test_seconds_become_milliseconds():
    (row,) = rows_of(frame(watch_ms=[1.5], duration_ms=[2]), duration_unit="s")
    assert (row["watch_ms"], row["duration_ms"]) == (1500, 2000)


def test_text_seconds_become_milliseconds_value_by_value(tmp_path):
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,event_time,watch_ms\nu,a,2026-01-01T00:00:00Z,1.5\n"
        "u,b,2026-01-01T00:00:00Z,ages\nu,c,2026-01-01T00:00:00Z,\n"
    )
    log = open_log(settings(tmp_path / "log.csv", duration_unit="s"), 0)
    (validated,) = checked(log)
    assert validated.accepted["watch_ms"].to_pylist() == [1500, None]
    assert validated.reasons == {"watch_ms is not a valid int64": 1}


def test_strings_of_parquet_are_parsed_only_if_told():
    text = frame(watch_ms=["5"])
    with pytest.raises(DataError, match="watch_ms"):
        checked(log_from_rows(text, settings()))
    (row,) = rows_of(text, parse_text=True)
    assert row["watch_ms"] == 5


def test_pandas_frame_with_gaps_is_read():
    rows = pd.DataFrame({"uid": ["a", "b"], "vid": ["x", "y"], "watch_ms": [1, None]})
    rows["ts"] = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    first, second = rows_of(rows, columns=COLUMNS)
    assert (first["watch_ms"], second["watch_ms"]) == (1, None)
    assert first["event_time"] == MOMENT


def test_frame_of_mixed_values_is_an_error():
    rows = pd.DataFrame({"user_id": ["a", 7]}, dtype=object)
    with pytest.raises(DataError, match="several types"):
        checked(log_from_rows(rows, settings()))


def test_folder_with_all_tables_is_read(tmp_path):
    (tmp_path / "events").mkdir()
    pq.write_table(frame(), tmp_path / "events" / "1.parquet")
    pq.write_table(frame(item_id=["j"]), tmp_path / "events" / "2.parquet")
    pq.write_table(pa.table({"id": ["i"], "topics": ["a| b"]}), tmp_path / "items.parquet")
    (tmp_path / "users.csv").write_text("user_id,birth_year\nu,1980\n")
    (tmp_path / "searches.csv").write_text("user_id,event_time,q\nu,2026-01-01T00:00:00Z,cats\n")
    options = {
        "events": "events",
        "items": "items.parquet",
        "users": "users.csv",
        "searches": "searches.csv",
        "item_columns": {"item_id": "id"},
        "search_columns": {"query": "q"},
        "list_separator": "|",
    }
    log = open_log(settings(tmp_path, **options), 0)
    assert [table["item_id"][0].as_py() for table in log.events()] == ["i", "j"]
    assert validate_items(log.items).accepted["topics"].to_pylist() == [["a", "b"]]
    assert log.users.to_pylist() == [{"user_id": "u", "birth_year": "1980"}]
    assert [table["query"].to_pylist() for table in log.searches()] == [["cats"]]


def test_mapped_name_wins_over_a_column_that_has_it():
    (row,) = rows_of(frame(uid=["mapped"]), columns={"user_id": "uid"})
    assert row["user_id"] == "mapped"
    assert "uid" not in row


def test_mapping_to_no_contract_column_is_refused():
    with pytest.raises(ConfigError, match="'who'"):
        log_from_rows(frame(), settings(columns={"who": "user_id"}))


def test_mapping_of_a_missing_column_is_refused():
    with pytest.raises(DataError, match="'nobody'"):
        checked(log_from_rows(frame(), settings(columns={"user_id": "nobody"})))


@pytest.mark.parametrize(
    "options", [{"time_unit": "h"}, {"duration_unit": "m"}, {"columns": "uid"}, {"time_unit": 3}]
)
def test_option_of_a_wrong_value_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        checked(log_from_rows(frame(), settings(**options)))
