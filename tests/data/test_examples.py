import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.building import channel_numbers
from recsys.errors import DataError
from tests.data.tiny_log import (
    ITEMS,
    SECOND,
    TIME,
    event_table,
    prepare_tiny,
    tiny_log,
    tiny_settings,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare_tiny(tmp_path_factory.mktemp("tiny") / "prepared")


@pytest.fixture(scope="module")
def candidates(tiny):
    return tiny.shards[0].candidates


@pytest.fixture(scope="module")
def ranking(tiny):
    return tiny.shards[0].ranking


def test_catalogue_has_trained_then_other_items(tiny):
    assert tiny.catalogue.item_ids(np.arange(5)) == ["x", "y", "z", "new", "unwatched"]
    assert tiny.catalogue.num_trained == 3


def test_vocabularies_know_the_training_part_only(tiny):
    vocabularies = tiny.vocabularies
    assert vocabularies["country"].rows(["NL", "FR"]).tolist() == [0, -1]
    assert vocabularies["user_id"].rows(["ann", "bob", "cat"]).tolist() == [0, 1, -1]
    assert vocabularies["search_token"].rows(["war", "art", "sea", "sea war"]).tolist() == [
        0,
        1,
        2,
        3,
    ]
    assert vocabularies["topics"].rows(["art", "war", "sea"]).tolist() == [0, 1, -1]


def test_labels_are_positive_watches(candidates):
    assert candidates.user.tolist() == [0, 0, 1, 2]
    assert candidates.item.tolist() == [0, 1, 2, 1]
    assert (candidates.moment // SECOND).tolist() == [100, 110, 109, 125]
    assert candidates.has_time.all()


def test_labels_know_what_was_strictly_before(candidates):
    assert candidates.known_watches.tolist() == [0, 1, 0, 0]
    assert candidates.known_tokens.tolist() == [0, 3, 1, 0]


def test_tokens_are_oldest_first(candidates):
    assert candidates.token_offsets.tolist() == [0, 4, 5, 5]
    assert candidates.token.tolist() == [3, 1, 4, 1, 2]
    assert (candidates.token_moment // SECOND).tolist() == [103, 103, 103, 110, 1]


def test_held_out_labels_are_targets(candidates):
    assert candidates.split.tolist() == [0, 0, 0, 1]
    assert candidates.is_target.tolist() == [False, False, False, True]


def test_context_comes_from_the_user(candidates):
    assert candidates.context["country"].tolist() == [1, 1, 0, 0]
    np.testing.assert_equal(candidates.age, np.array([20, 20, np.nan, np.nan], np.float32))


def test_event_context_wins_over_the_user(tmp_path):
    country = pa.array(["DE", None, "DE", None, None, None, None, None])
    prepared = prepare_tiny(tmp_path / "p", tiny_log(event_table(country=country)))
    # Of the training events two are from DE, and one leaves it to the user, NL.
    assert prepared.vocabularies["country"].rows(["DE", "NL", "FR"]).tolist() == [0, 1, -1]
    assert prepared.shards[0].candidates.context["country"].tolist() == [1, 1, 0, 0]


def test_impressions_of_known_watch_time_are_ranked(ranking):
    assert ranking.user.tolist() == [0, 0, 0, 1, 2, 2]
    assert (ranking.moment // SECOND).tolist() == [100, 104, 110, 108, 125, 140]
    assert ranking.watch_ms.tolist() == [8000, 1000, 15000, 0, 20000, 5000]
    assert ranking.duration_ms.tolist() == [10000, 20000, 20000, 10000, 20000, -1]
    assert ranking.completed.tolist() == [0, 0, 0, 0, 1, -1]
    assert ranking.split.tolist() == [0, 0, 0, 0, 1, 2]
    assert ranking.clicked.tolist() == [-1] * 6


def test_impressions_of_a_request_are_as_of_its_first(tmp_path):
    # Two users have a request of the same id; one user's other events have none.
    request = pa.array(["r", "r", None, "s", "r", None, "r", "r"])
    prepared = prepare_tiny(tmp_path / "p", tiny_log(event_table(request_id=request)))
    without = prepare_tiny(tmp_path / "w", tiny_log(event_table()))
    found, own = (each.shards[0].ranking.moment // SECOND for each in (prepared, without))
    user = prepared.shards[0].ranking.user
    events = prepared.shards[0].events(["request_id", "event_time"]).to_pylist()
    assert any(event["request_id"] for event in events)
    assert (found <= own).all()
    assert (found < own).any()
    for owner in np.unique(user):
        assert found[user == owner].min() == own[user == owner].min()


def test_counters_of_a_request_are_as_of_its_first_moment(tmp_path):
    rows = [("ann", "y", 104, 1_000, True), ("ann", "y", 110, 15_000, True)]
    apart = prepare_tiny(tmp_path / "a", tiny_log(event_table(rows)))
    request = pa.array(["r", "r"])
    together = prepare_tiny(tmp_path / "t", tiny_log(event_table(rows, request_id=request)))
    counts = [each.shards[0].ranking.item_counters[:, 0].tolist() for each in (apart, together)]
    assert counts == [[0, 1], [0, 0]]


def test_item_counters_see_only_the_past(ranking):
    assert ranking.item_counters.tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 1, 0, 0, 1000],
        [1, 0, 0, 0, 0],
        [2, 1, 0, 0, 1000],
        [0, 0, 0, 0, 0],
    ]


def test_channel_counters_add_the_items_of_a_channel(tmp_path):
    items = ITEMS.set_column(1, "channel_id", pa.array(["north", "north", None]))
    prepared = prepare_tiny(tmp_path / "p", tiny_log(items=items))
    assert prepared.shards[0].ranking.channel_counters.tolist() == [
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [3, 3, 1, 0, 9000],
        [2, 1, 0, 0, 1000],
        [4, 3, 1, 0, 9000],
        [0, 0, 0, 0, 0],
    ]


def test_bundle_counters_stop_at_data_until(tiny):
    assert tiny.data_until == 135 * SECOND
    assert tiny.item_counters.tolist() == [
        [3, 2, 1, 0, 8000],
        [3, 2, 1, 0, 16000],
        [0, 1, 1, 0, 9000],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_user_features_of_the_ranker(ranking):
    assert ranking.codes["user_id"].tolist() == [1, 1, 1, 2, 0, 0]
    np.testing.assert_equal(ranking.numeric["age"][:4], np.array([20, 20, 20, np.nan], np.float32))
    assert np.isnan(ranking.retrieval_score).all()


def test_labels_of_the_log_replace_the_defaults(tmp_path):
    columns = {
        "liked": pa.array([0, 1, None, 1, 0, 0, 1, 0]),
        "candidate_rank": pa.array([3, None, 1, 2, 1, 1, 1, 1], pa.float32()),
        "clicked": pa.array([True, False, None, True, None, None, None, None]),
    }
    changed = tiny_settings(
        data={"watch": {"column": "liked"}}, ranking={"completion_column": "liked"}
    )
    prepared = prepare_tiny(tmp_path / "p", tiny_log(event_table(**columns)), changed)
    ranking = prepared.shards[0].ranking
    assert ranking.completed.tolist() == [0, 1, -1, 1, 1, 0]
    assert ranking.clicked.tolist() == [1, 0, -1, 1, -1, -1]
    np.testing.assert_equal(ranking.retrieval_rank[:3], np.array([3, np.nan, 1], np.float32))
    assert prepared.shards[0].timelines.is_watch.tolist() == [0, 1, 1, 1, 0, 0, 1, 0]


def test_likes_are_unknown_without_a_column(ranking):
    assert ranking.liked.dtype == np.int8
    assert ranking.liked.tolist() == [-1] * 6


def test_likes_come_from_their_column(tmp_path):
    columns = {"hearts": pa.array([0, 2, None, 1, 1, 0, 1, None])}
    changed = tiny_settings(ranking={"like_column": "hearts"})
    prepared = prepare_tiny(tmp_path / "p", tiny_log(event_table(**columns)), changed)
    ranking = prepared.shards[0].ranking
    # Neither an event that is no impression nor one of unknown watch time is an example.
    assert ranking.liked.tolist() == [0, 1, -1, 1, 1, -1]
    assert ranking.completed.tolist() == [0, 0, 0, 0, 1, -1]


def test_bias_columns_of_the_event_are_codes_beside_those_of_the_user(tmp_path):
    position = pa.array([2, 1, 2, None, 3, 1, 3, 9], pa.int16())
    changed = tiny_settings(ranking={"bias_categorical": ("position",)})
    prepared = prepare_tiny(tmp_path / "p", tiny_log(event_table(position=position)), changed)
    # Of the training events two are at 2, then come 1 and 3; 9 is of the test part only.
    vocabulary = prepared.vocabularies["position"]
    codes = vocabulary.rows(["2", "1", "3", "9"]) + 1
    assert sorted(codes.tolist()) == [0, 1, 2, 3]
    two, one, three, _ = codes.tolist()
    found = prepared.shards[0].ranking.codes
    assert set(found) == {"user_id", "position"}
    assert found["position"].tolist() == [two, one, two, 0, three, 0]


def test_channels_are_numbered_once():
    channels = channel_numbers(pa.table({"channel_id": ["b", None, "a", "b"]}))
    assert channels[0] == channels[3] != channels[2]
    assert channels[1] == -1
    assert channel_numbers(pa.table({"item_id": ["x"]})).tolist() == [-1]


@pytest.mark.parametrize(
    "section",
    [
        {"candidates": {"context": ("mood",)}},
        {"ranking": {"user_numeric": ("mood",)}},
        {"ranking": {"item_categorical": ("mood",)}},
        {"ranking": {"completion_column": "mood"}},
        {"ranking": {"like_column": "mood"}},
        {"ranking": {"bias_categorical": ("mood",)}},
        {"data": {"watch": {"column": "mood"}}},
    ],
)
def test_missing_column_is_named(section, tmp_path):
    with pytest.raises(DataError, match=r"'mood'"):
        prepare_tiny(tmp_path / "p", settings=tiny_settings(**section))


def test_last_of_session_alone_is_asked_for(tmp_path):
    rows = [("ann", "x", second, 9_000, True) for second in (100, 121, 122, 123, 124)]
    sessions = pa.array(["a", "b", "b", "c", None])
    changed = tiny_settings(split={"targets": "last_of_session"})
    log = tiny_log(event_table(rows, session_id=sessions))
    prepared = prepare_tiny(tmp_path / "p", log, changed)
    assert prepared.shards[0].candidates.is_target.tolist() == [False, False, True, False, False]


def test_durations_of_the_test_part_stay_unknown(tmp_path):
    duration = pa.array([None, None, None, None, 30_000, None, None, 40_000], pa.int64())
    prepared = prepare_tiny(tmp_path / "p", tiny_log(event_table(duration_ms=duration)))
    known = dict(
        zip(
            prepared.catalogue.table["item_id"].to_pylist(),
            prepared.catalogue.table["duration_ms"].to_pylist(),
            strict=True,
        )
    )
    assert known == {"x": 10_000, "y": 20_000, "z": 30_000, "new": None, "unwatched": None}


def test_left_out_events_are_gone(tmp_path):
    changed = tiny_settings(split={"test_until": "1970-01-01T00:02:20"})
    prepared = prepare_tiny(tmp_path / "p", settings=changed)
    assert prepared.catalogue.rows(["new"]).tolist() == [-1]
    assert 140 * SECOND not in prepared.shards[0].timelines.moment


events = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cat"]),
        st.sampled_from(["x", "y", "z", "new"]),
        st.integers(100, 140),
        st.sampled_from([None, 0, 1_000, 4_000, 30_000]),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda row: row[:3],
)


def log_of(rows):
    table = event_table([row[:5] for row in rows], liked=pa.array([row[5] for row in rows]))
    return tiny_log(table)


def known_of_each(prepared, before):
    """Everything that the examples before a moment may rest on, by user, item and moment."""
    known = {}
    for shard in prepared.shards:
        both = (("candidates", shard.candidates), ("ranking", shard.ranking))
        for kind, examples in both:
            for row in np.flatnonzero(examples.moment < before).tolist():
                key = (
                    kind,
                    shard.user_ids[examples.user[row]],
                    prepared.catalogue.item_ids(examples.item[[row]])[0],
                    int(examples.moment[row]),
                )
                known[key] = facts_of(shard, examples, row)
    return known


def facts_of(shard, examples, row):
    if examples is shard.ranking:
        return [
            examples.item_counters[row].tolist(),
            examples.channel_counters[row].tolist(),
            {name: int(codes[row]) for name, codes in examples.codes.items()},
        ]
    user = examples.user[[row]]
    first = examples.token_offsets[user[0]]
    return [
        shard.histories.newest(user, examples.known_watches[[row]], 30).tolist(),
        examples.token[first : first + examples.known_tokens[row]].tolist(),
        {name: int(codes[row]) for name, codes in examples.context.items()},
    ]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(rows=events, other=events, cut=st.integers(101, 139))
def test_nothing_moves_when_the_future_changes(rows, other, cut, tmp_path_factory):
    past = [row for row in rows if row[2] < cut] or [("ann", "x", 100, 0, True, True)]
    # Outcomes that become known at the cut or later belong to the future as well.
    late = [row[3] is not None and row[2] + row[3] // 1000 >= cut for row in past]
    changed_past = [
        (*row[:3], row[3] + 7_000 if is_late else row[3], *row[4:])
        for row, is_late in zip(past, late, strict=True)
    ]
    instant = f"1970-01-01T00:{cut // 60:02d}:{cut % 60:02d}"
    cuts = {"validation_from": instant, "test_from": instant}
    config = tiny_settings(split=cuts, data={"watch": {"column": "liked"}})
    folder = tmp_path_factory.mktemp("leak")
    logs = [
        log_of(past + [row for row in rows if row[2] >= cut]),
        log_of(changed_past + [row for row in other if row[2] >= cut]),
    ]
    first, second = (
        prepare_tiny(folder / str(number), log, config) for number, log in enumerate(logs)
    )
    assert known_of_each(first, cut * SECOND) == known_of_each(second, cut * SECOND)
    num_trained = first.catalogue.num_trained
    trained = np.arange(num_trained)
    assert second.catalogue.num_trained == num_trained
    assert first.catalogue.item_ids(trained) == second.catalogue.item_ids(trained)
    np.testing.assert_array_equal(
        first.item_counters[:num_trained], second.item_counters[:num_trained]
    )


def test_equal_times_see_none_of_each_other(tmp_path):
    rows = [("ann", item, 100, 0, True) for item in ("x", "y")] + [("bob", "x", 100, 0, True)]
    changed = tiny_settings(data={"watch": {"min_ms": 0}})
    prepared = prepare_tiny(tmp_path / "p", tiny_log(event_table(rows)), changed)
    assert prepared.shards[0].candidates.known_watches.tolist() == [0, 0, 0]
    assert not prepared.shards[0].ranking.item_counters.any()


def test_stated_outcome_time_delays_what_is_known(tmp_path):
    rows = [("ann", "x", 100, 9_000, True), ("ann", "y", 115, 9_000, True)]
    outcome = pa.array([115 * SECOND, None], TIME)
    prepared = prepare_tiny(tmp_path / "p", tiny_log(event_table(rows, outcome_time=outcome)))
    assert prepared.shards[0].candidates.known_watches.tolist() == [0, 0]
    assert (prepared.shards[0].timelines.outcome_moment // SECOND).tolist() == [115, 124]
