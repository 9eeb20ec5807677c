"""Impressions find the answer that showed them."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.answer_files import ANSWERS, answer_files, file_name
from recsys.data.answers import OF_ITEM, join_answers, read_shown
from recsys.data.sources import open_log
from recsys.errors import ConfigError, DataError
from recsys.settings import DataSettings

HOUR = 3_600_000_000
DAY = timedelta(days=1)


def answer(user_id, request_id, moment, item_ids, **columns):
    items = [
        {"item_id": item_id, "position": place, "propensity": 1 / (place + 2)}
        for place, item_id in enumerate(item_ids)
    ]
    named = {"policy": "plackett_luce", "bundle_id": f"b-{request_id}", "surface": "home"}
    identity = {"user_id": user_id, "request_id": request_id, "answer_time": moment}
    return identity | named | {"items": items} | columns


def write(directory, *answers):
    directory.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(list(answers), schema=ANSWERS)
    moments = [each["answer_time"] for each in answers]
    path = directory / file_name(min(moments), max(moments), f"{len(list(directory.iterdir())):x}")
    pq.write_table(table, path)


def event_table(*rows):
    """Rows of (user, item, moment, request id or None[, is impression])."""
    columns = list(zip(*[(*row, True)[:5] for row in rows], strict=True))
    return pa.table(
        {
            "user_id": pa.array(columns[0], pa.string()),
            "item_id": pa.array(columns[1], pa.string()),
            "event_time": pa.array(columns[2], pa.timestamp("us", "UTC")),
            "request_id": pa.array(columns[3], pa.string()),
            "is_impression": pa.array(columns[4], pa.bool_()),
        }
    )


def joined(directory, *rows, max_age=DAY):
    shown = read_shown(directory, 0, 10**18)
    return join_answers(event_table(*rows), shown, max_age).to_pylist()


@pytest.fixture
def answers(tmp_path):
    write(tmp_path / "a", answer("u", "r1", 10 * HOUR, "xyz"), answer("v", "r1", 10 * HOUR, "yx"))
    write(tmp_path / "a", answer("u", "r2", 12 * HOUR, "zx", surface=None))
    return tmp_path / "a"


def test_impression_of_a_named_request_has_its_place_and_propensity(answers):
    (row,) = joined(answers, ("u", "y", 13 * HOUR, "r1"))
    assert row == {
        "user_id": "u",
        "item_id": "y",
        "event_time": datetime(1970, 1, 1, 13, tzinfo=UTC),
        "request_id": "r1",
        "is_impression": True,
        "policy": "plackett_luce",
        "surface": "home",
        "device": None,
        "country": None,
        "language": None,
        "logged_in": None,
        "position": 1,
        "propensity": pytest.approx(1 / 3),
        "candidate_score": None,
        "candidate_rank": None,
        "bundle_id": "b-r1",
    }


def test_named_request_holds_whatever_the_time_and_for_its_user_only(answers):
    rows = joined(
        answers,
        ("u", "x", 10**17, "r1"),
        ("v", "x", 13 * HOUR, "r1"),
        ("w", "x", 13 * HOUR, "r1"),
        ("u", "q", 13 * HOUR, "r1"),
        ("u", "x", 13 * HOUR, "r9"),
    )
    assert [row["position"] for row in rows] == [0, 1, None, None, None]
    assert [row["request_id"] for row in rows] == ["r1", "r1", "r1", "r1", "r9"]


def test_impression_without_a_request_belongs_to_the_latest_answer_before_it(answers):
    rows = joined(
        answers,
        ("u", "x", 11 * HOUR, None),
        ("u", "x", 13 * HOUR, None),
        ("u", "y", 13 * HOUR, None),
        ("u", "x", 12 * HOUR, None),
        ("u", "x", 9 * HOUR, None),
        ("v", "z", 13 * HOUR, None),
    )
    assert [row["request_id"] for row in rows] == ["r1", "r2", "r1", "r2", None, None]
    assert [row["position"] for row in rows] == [0, 1, 1, 1, None, None]


def test_answer_too_long_ago_is_not_taken(answers):
    rows = joined(
        answers,
        ("u", "y", 12 * HOUR, None),
        ("u", "y", 12 * HOUR + 1, None),
        max_age=timedelta(hours=2),
    )
    assert [row["position"] for row in rows] == [1, None]


def test_watch_from_elsewhere_was_not_shown_by_an_answer(answers):
    rows = joined(answers, ("u", "x", 13 * HOUR, None, False), ("u", "x", 13 * HOUR, "r1", False))
    assert [row["position"] for row in rows] == [None, None]


def test_own_columns_stay(answers):
    table = event_table(("u", "x", 13 * HOUR, "r1"), ("u", "y", 13 * HOUR, "r1"))
    table = table.append_column("surface", pa.array(["mail", None]))
    found = join_answers(table, read_shown(answers, 0, 10**18), DAY)
    assert found["surface"].to_pylist() == ["mail", "home"]


def test_request_answered_twice_counts_as_first_answered(tmp_path):
    write(tmp_path / "a", answer("u", "r", 20, "yx"))
    write(tmp_path / "a", answer("u", "r", 10, "xy"))
    (row,) = joined(tmp_path / "a", ("u", "x", 30, "r"))
    assert row["position"] == 0


def test_only_files_of_the_time_are_read(answers):
    assert set(read_shown(answers, 11 * HOUR, 20 * HOUR)["request_id"].to_pylist()) == {"r2"}
    assert set(read_shown(answers, 0, 10 * HOUR)["request_id"].to_pylist()) == {"r1"}
    assert len(read_shown(answers, 0, 9 * HOUR)) == 0
    write(answers, answer("w", "r3", 1 * HOUR, "x"), answer("w", "r4", 30 * HOUR, "x"))
    assert len(read_shown(answers, 20 * HOUR, 21 * HOUR)) == 2
    (answers / "notes.txt").write_text("no answers")
    (answers / ".x.partial").write_text("half")
    assert len(answer_files(answers)) == 3


def test_broken_file_is_named(answers):
    (answers / file_name(0, 1, "ff")).write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="answers-0-1-ff"):
        read_shown(answers, 0, 1)


@settings(max_examples=30, deadline=None)
@given(
    made=st.lists(st.tuples(st.sampled_from("uv"), st.integers(0, 9), st.permutations("xyz"))),
    seen=st.lists(
        st.tuples(st.sampled_from("uv"), st.sampled_from("xyzq"), st.integers(0, 9)), min_size=1
    ),
)
def test_join_is_what_a_search_answer_by_answer_finds(tmp_path_factory, made, seen):
    directory = tmp_path_factory.mktemp("answers")
    for number, (user_id, moment, items) in enumerate(made):
        write(directory, answer(user_id, f"r{number}", moment, items))
    rows = joined(directory, *[(*each, None) for each in seen], max_age=timedelta(microseconds=5))
    for (user_id, item_id, moment), row in zip(seen, rows, strict=True):
        fitting = [
            (answered, items.index(item_id))
            for user, answered, items in made
            if user == user_id and item_id in items and 0 <= moment - answered <= 5
        ]
        newest = max((answered for answered, _ in fitting), default=None)
        places = {place for answered, place in fitting if answered == newest} or {None}
        assert row["position"] in places


def test_served_source_joins_files_below_its_path(answers, tmp_path):
    (tmp_path / "events").mkdir()
    pq.write_table(event_table(("u", "x", 13 * HOUR, "r1")), tmp_path / "events" / "e.parquet")
    pq.write_table(pa.table({"item_id": ["x", "y"]}), tmp_path / "items.parquet")
    options = {"answers": "a", "items": "items.parquet"}
    log = open_log(DataSettings(source="served", path=str(tmp_path), options=options), 0)
    for _ in range(2):
        (batch,) = log.events()
        assert [batch[name].to_pylist() for name in OF_ITEM[:2]] == [[0], [0.5]]
    assert log.items["item_id"].to_pylist() == ["x", "y"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no folder|found none at"),
        ({"answers": "a", "max_answer_hours": 0}, "above 0"),
        ({"answers": "a", "answrs": "b"}, "did you mean 'answers'"),
    ],
)
def test_wrong_options_are_named(answers, tmp_path, options, message):
    (tmp_path / "events").mkdir()
    pq.write_table(event_table(("u", "x", 1, None)), tmp_path / "events" / "e.parquet")
    with pytest.raises(ConfigError, match=message):
        open_log(DataSettings(source="served", path=str(tmp_path), options=options), 0)
