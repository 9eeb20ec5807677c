import tomllib
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.column_guess import (
    guess_columns,
    is_naive,
    is_seconds,
    likely_separator,
    time_unit,
)
from recsys.data.describe import describe
from recsys.data.guess import guess_config
from recsys.data.sources import open_log
from recsys.errors import DataError
from recsys.settings import RecsysSettings

START = datetime(2026, 1, 1, tzinfo=UTC)


def settings_of(path):
    return RecsysSettings.model_validate(tomllib.loads(guess_config(path)))


def rows_of(settings):
    summary = describe(open_log(settings.data, 0))
    tables = {name: summary[name] for name in ("events", "items", "users") if name in summary}
    assert not any(table["rejected"] for table in tables.values())
    return {name: table["rows"] for name, table in tables.items()}


def write_shop(folder):
    """A folder as someone may have it: other names, integer ids, seconds, text topics."""
    moments = [int((START + timedelta(hours=k)).timestamp() * 1000) for k in range(480)]
    events = {
        "visitorId": [k % 5 for k in range(480)],
        "videoId": [k % 7 for k in range(480)],
        "timestamp": moments,
        "watch_seconds": [float(k % 90) for k in range(480)],
        "platform": ["tv"] * 480,
    }
    pq.write_table(pa.table(events), folder / "views.parquet")
    (folder / "videos.csv").write_text("videoId,name,genres\n" + "0,Zero,a|b\n" * 1)
    (folder / "people.csv").write_text("visitorId,sex\n0,F\n")
    (folder / "README.md").write_text("not a table")


def test_guess_reads_the_whole_folder(tmp_path):
    write_shop(tmp_path)
    settings = settings_of(tmp_path)
    assert settings.data.options == {
        "events": "views.parquet",
        "items": "videos.csv",
        "users": "people.csv",
        "integers_as_text": True,
        "time_unit": "ms",
        "duration_unit": "s",
        "list_separator": "|",
        "columns": {
            "user_id": "visitorId",
            "item_id": "videoId",
            "event_time": "timestamp",
            "watch_ms": "watch_seconds",
            "device": "platform",
        },
        "item_columns": {"item_id": "videoId", "title": "name", "topics": "genres"},
        "user_columns": {"user_id": "visitorId", "gender": "sex"},
    }
    assert rows_of(settings) == {"events": 480, "items": 1, "users": 1}


def test_first_column_decides_the_unit_of_durations(tmp_path):
    write_shop(tmp_path)
    (tmp_path / "videos.csv").write_text("videoId,duration_ms\n0,60000\n")
    assert settings_of(tmp_path).data.options["duration_unit"] == "s"


def test_guess_cuts_the_last_tenths_at_midnight(tmp_path):
    write_shop(tmp_path)
    split = settings_of(tmp_path).split
    assert split.kind == "time"
    assert split.validation_from == "2026-01-16T00:00:00+00:00"
    assert split.test_from == "2026-01-18T00:00:00+00:00"


def test_every_guess_has_a_comment(tmp_path):
    write_shop(tmp_path)
    lines = guess_config(tmp_path).splitlines()
    start = lines.index("[data.options]") + 1
    options = lines[start : lines.index("", start)]
    assert [line.startswith("#") for line in options] == [True, False] * (len(options) // 2)


def test_plain_csv_with_naive_times_and_no_outcome(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("userid,item,date_time\n007,a,2026-01-01 10:00:00\n7,b,2026-01-01 11:00:00\n")
    settings = settings_of(path)
    assert settings.data.options["naive_times_are_utc"] is True
    assert settings.data.watch.unknown_is_watch
    assert not settings.ranking.enabled
    assert settings.split.kind == "leave_one_out"
    assert rows_of(settings) == {"events": 2}


def test_clicks_are_the_watches_where_there_is_no_watch_time(tmp_path):
    table = pa.table({"user": ["u"], "item": ["i"], "pos": [0], "is_click": [1]})
    pq.write_table(table, tmp_path / "log.parquet")
    settings = settings_of(tmp_path / "log.parquet")
    assert settings.data.watch.column == "clicked"
    assert rows_of(settings) == {"events": 1}


def test_text_in_parquet_is_parsed(tmp_path):
    table = pa.table({"user": ["u"], "item": ["i"], "time": ["2026-01-01T00:00:00Z"]})
    pq.write_table(table, tmp_path / "log.parquet")
    settings = settings_of(tmp_path)
    assert settings.data.options["parse_text"] is True
    assert rows_of(settings) == {"events": 1}


def test_hive_partitions_are_one_table(tmp_path):
    for day in (1, 2):
        (tmp_path / f"date=2026010{day}").mkdir()
        table = pa.table({"user_id": ["u"], "item_id": ["i"], "ts": [1_767_225_600 + day]})
        pq.write_table(table, tmp_path / f"date=2026010{day}" / "part.parquet")
    assert rows_of(settings_of(tmp_path)) == {"events": 2}


def test_strange_names_survive_toml(tmp_path):
    folder = tmp_path / 'we "said" \U0001f600'
    folder.mkdir()
    (folder / "a\\b.csv").write_text("user_id,item_id,pos\nu,i,0\n")
    assert rows_of(settings_of(folder)) == {"events": 1}


def test_folder_without_events_is_an_error_that_says_what_was_found(tmp_path):
    (tmp_path / "people.csv").write_text("user_id,age\n1,2\n")
    with pytest.raises(DataError, match=r"people\.csv.*age"):
        guess_config(tmp_path)


def test_events_without_time_or_order_are_an_error(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match="a time or an order"):
        guess_config(tmp_path / "log.csv")


def test_own_name_is_taken_before_a_likely_one():
    sample = pa.table({"uid": ["a"], "user_id": ["b"]})
    assert guess_columns(sample, ["user_id"]) == {"user_id": "user_id"}


def test_float_is_never_an_id():
    assert guess_columns(pa.table({"user_id": [1.0]}), ["user_id"]) == {}


@pytest.mark.parametrize(
    ("value", "unit"),
    [(1_650_812_741, "s"), (1_650_812_741_436, "ms"), (1_650_812_741_436_000, "us"), (17, None)],
)
def test_unit_of_times_follows_their_size(value, unit):
    assert time_unit(pa.table({"ts": [value]}), "ts") == unit


def test_zone_of_text_times_is_seen():
    assert is_naive(pa.chunked_array([["2026-01-01T00:00:00"]]))
    assert not is_naive(pa.chunked_array([["2026-01-01T00:00:00+02:00"]]))
    assert is_naive(pa.chunked_array([["2026-01-01"]]))


def test_seconds_are_told_by_name_or_size():
    assert is_seconds(pa.table({"length": [120]}), "length")
    assert not is_seconds(pa.table({"length": [120_000]}), "length")
    assert not is_seconds(pa.table({"length_ms": [120]}), "length_ms")


def test_most_frequent_separator_is_taken():
    assert likely_separator(pa.chunked_array([["a;b;c,d"]])) == ";"
