import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import load_settings
from pipelines.prepare import main
from recsys.artefacts import list_files
from recsys.data.log import Log
from recsys.data.partition import hash_ids, shards_of
from recsys.data.prepared import load_prepared
from recsys.errors import ArtefactError, DataError
from tests.data.tiny_log import (
    SECOND,
    TIME,
    event_table,
    prepare_tiny,
    tiny_log,
    tiny_settings,
)

CONFIGS = Path(__file__).parents[2] / "pipelines" / "configs"


def random_log(batches=1, num_users=30, num_events=400, seed=0):
    rng = np.random.default_rng(seed)
    count = num_events
    table = pa.table(
        {
            "user_id": [f"user {number}" for number in rng.integers(0, num_users, count)],
            "item_id": [f"item {number}" for number in rng.zipf(1.5, count) % 40],
            "event_time": pa.array(rng.integers(60, 160, count) * SECOND, TIME),
            "watch_ms": pa.array(rng.integers(0, 20_000, count), mask=rng.random(count) < 0.2),
            "event_id": [str(number) for number in range(count)],
        }
    )
    size = -(-count // batches)
    parts = [table.slice(start, size) for start in range(0, count, size)]
    return Log(events=lambda: iter(parts), items=None, users=None)


def settings_of(shards, processes=1):
    candidates = {"context": ("user_id",)}
    sizes = {"shards": shards, "processes": processes}
    return tiny_settings(
        data=sizes, candidates=candidates, ranking={"item_categorical": ("item_id",)}
    )


def per_user(prepared):
    """Every array of every user, by user id."""
    found = {}
    for shard in prepared.shards:
        for number, user_id in enumerate(shard.user_ids.tolist()):
            found[user_id] = arrays_of_user(shard, number)
    return found


def arrays_of_user(shard, number):
    own = slice(shard.timelines.offsets[number], shard.timelines.offsets[number + 1])
    timelines = {k: v[own] for k, v in shard.timelines.arrays().items() if k != "offsets"}
    label = shard.candidates.user == number
    shown = shard.ranking.user == number
    labels = ("item", "known_watches", "moment", "split", "is_target")
    examples = ("item", "moment", "watch_ms", "completed", "item_counters", "channel_counters")
    return {
        **timelines,
        **{f"label {name}": getattr(shard.candidates, name)[label] for name in labels},
        **{f"shown {name}": getattr(shard.ranking, name)[shown] for name in examples},
        "code": shard.ranking.codes["user_id"][shown],
        "context": shard.candidates.context["user_id"][label],
    }


def assert_equal_users(first, second):
    assert first.keys() == second.keys()
    for user_id, arrays in first.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, second[user_id][name], err_msg=name)


def test_number_of_shards_and_batches_changes_no_user(tmp_path):
    one = prepare_tiny(tmp_path / "1", random_log(), settings_of(1))
    four = prepare_tiny(tmp_path / "4", random_log(batches=7), settings_of(4))
    assert len(four.shards) == 4
    assert_equal_users(per_user(one), per_user(four))
    np.testing.assert_array_equal(one.item_counters, four.item_counters)
    assert one.catalogue.table.equals(four.catalogue.table)


def test_processes_give_the_same_bytes_as_a_second_run(tmp_path):
    for name, processes in (("inline", 1), ("spawned", 2)):
        prepare_tiny(tmp_path / name, random_log(), settings_of(3, processes))
    first, second = tmp_path / "inline", tmp_path / "spawned"
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()
    assert list_files(first) == list_files(second)


def test_leave_one_out_asks_for_the_last_watch(tmp_path):
    settings = settings_of(2).model_copy(
        update={"split": tiny_settings().split.model_copy(update={"kind": "leave_one_out"})}
    )
    prepared = prepare_tiny(tmp_path / "p", random_log(), settings)
    for shard in prepared.shards:
        labels = shard.candidates
        for user in np.unique(labels.user):
            split = labels.split[labels.user == user]
            expected = [0] * len(split) if len(split) < 3 else [0] * (len(split) - 2) + [1, 2]
            assert split.tolist() == expected
    last = max(shard.timelines.outcome_moment.max() for shard in prepared.shards)
    assert prepared.data_until == last + 1


def test_bad_rows_are_put_aside_with_their_reason(tmp_path):
    events = pa.concat_tables([event_table(), event_table().slice(0, 1)])
    users = pa.array([None, *events["user_id"].to_pylist()[1:]], pa.string())
    events = events.set_column(0, "user_id", users)
    settings = tiny_settings(data={"max_rejected_share": 0.5})
    prepared = prepare_tiny(tmp_path / "p", tiny_log(events), settings)
    assert prepared.manifest["statistics"]["rejected"] == {"events: user_id is null": 1}
    rejected = pq.read_table(tmp_path / "p" / "rejected" / "events-00000.parquet")
    assert rejected["reason"].to_pylist() == ["user_id is null"]


def test_duplicates_count_as_rejects(tmp_path):
    twice = pa.concat_tables([event_table(), event_table()])
    with pytest.raises(DataError, match=r"8 of 16.*duplicate event: 8 rows"):
        prepare_tiny(tmp_path / "few", tiny_log(twice))
    settings = tiny_settings(data={"max_rejected_share": 0.5})
    prepared = prepare_tiny(tmp_path / "many", tiny_log(twice), settings)
    assert prepared.manifest["statistics"]["rejected"] == {"events: duplicate event": 8}
    assert prepared.manifest["statistics"]["events"] == 8


def test_log_without_events_is_refused(tmp_path):
    with pytest.raises(DataError, match="found none"):
        prepare_tiny(tmp_path / "p", tiny_log(event_table().slice(0, 0)))


def test_statistics_tell_what_was_prepared(tmp_path):
    statistics = prepare_tiny(tmp_path / "p").manifest["statistics"]
    assert statistics["rows"] == {"events": 8, "searches": 3, "items": 3, "users": 2}
    assert statistics["events_by_split"] == {"training": 5, "validation": 2, "test": 1}
    assert (statistics["users"], statistics["items"], statistics["trained_items"]) == (3, 5, 3)
    assert (statistics["candidate_labels"], statistics["ranking_examples"]) == (4, 6)
    assert (statistics["first_moment"], statistics["last_moment"]) == (100 * SECOND, 145 * SECOND)
    assert not (tmp_path / "p" / "scratch").exists()


def test_log_of_order_only_is_prepared(tmp_path):
    table = pa.table(
        {
            "user_id": ["a"] * 4 + ["b"] * 2,
            "item_id": list("xyzxyz"),
            "sequence": [0, 1, 2, 3, 0, 1],
        }
    )
    settings = tiny_settings(
        data={"watch": {"unknown_is_watch": True}, "shards": 2},
        split={"kind": "leave_one_out", "validation_from": None, "test_from": None},
        candidates={"context": ()},
        ranking={"user_categorical": (), "item_categorical": (), "user_numeric": ()},
    )
    log = Log(events=lambda: iter([table]))
    prepared = prepare_tiny(tmp_path / "p", log, settings)
    known = per_known_watches(prepared)
    assert known == {b"a": [0, 1, 2, 3], b"b": [0, 1]}
    assert prepared.data_until == 4
    assert not any(shard.timelines.has_time.any() for shard in prepared.shards)


def per_known_watches(prepared):
    return {
        user_id: shard.candidates.known_watches[shard.candidates.user == number].tolist()
        for shard in prepared.shards
        for number, user_id in enumerate(shard.user_ids.tolist())
    }


def test_other_directories_are_refused(tmp_path):
    prepare_tiny(tmp_path / "p")
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    (tmp_path / "p" / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ArtefactError, match="format 99"):
        load_prepared(tmp_path / "p")


def test_hash_is_fnv_1a():
    # Test vectors of the authors of FNV.
    hashed = hash_ids(np.array([b"", b"a", b"foobar"]))
    assert hashed.tolist() == [0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8]


def test_users_spread_evenly_over_shards():
    shard = shards_of(pa.chunked_array([[str(number) for number in range(4000)]]), 4)
    assert np.bincount(shard).min() > 800


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "folder", "labels"),
    [("ml1m", "ml-1m", 999_611), ("globo", "globo-news", 2_590_647)],
)
def test_real_log_is_prepared_whole(config, folder, labels, real_data, tmp_path):
    path = f"data.path={json.dumps(str(real_data / folder))}"
    main(load_settings(CONFIGS / f"{config}.toml", [path]), tmp_path)
    prepared = load_prepared(tmp_path)
    assert prepared.manifest["statistics"]["candidate_labels"] == labels
    assert prepared.manifest["statistics"]["rejected"] == {}
