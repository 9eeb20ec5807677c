import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.data.prepared import load_prepared
from recsys.data.user_states import user_states
from recsys.errors import RequestError
from recsys.guard import BusyError
from recsys.recommender import Recommender
from recsys.requests import ItemFilter, Request
from recsys.state import UserEvents, UserState


@pytest.fixture(scope="module")
def bundle(tiny_run):
    return Bundle.load(tiny_run / "bundle")


@pytest.fixture
def recommender(bundle):
    return Recommender(bundle)


@pytest.fixture(scope="module")
def states(tiny_run, bundle):
    prepared = load_prepared(tiny_run / "prepared")
    known = [
        state.as_of(bundle.data_until)
        for shard in prepared.shards
        for state in user_states(prepared, shard)
    ]
    return sorted(known, key=lambda state: -len(state.events))[:40]


def ask(recommender, state, **changes):
    return Request(state, now=recommender.data_until, **changes)


def ids(answer):
    return [item.item_id for item in answer.items]


def test_answer_is_ordered_by_expected_seconds(recommender, states):
    answer = recommender.recommend([ask(recommender, states[0])])[0]
    seconds = [item.expected_watch_seconds for item in answer.items]
    assert len(seconds) == 20
    assert seconds == sorted(seconds, reverse=True)
    assert answer.degraded_stages == ()


def test_batch_gives_each_the_answer_it_gets_alone(recommender, states):
    requests = [
        ask(recommender, state, num_items=5 + number) for number, state in enumerate(states)
    ]
    together = recommender.recommend(requests)
    for request, found in zip(requests, together, strict=True):
        alone = recommender.recommend([request])[0]
        assert ids(found) == ids(alone)
        np.testing.assert_allclose(
            [item.expected_watch_seconds for item in found.items],
            [item.expected_watch_seconds for item in alone.items],
            rtol=1e-5,
        )


def test_watched_items_do_not_come_back(recommender, bundle, states):
    for state in states[:10]:
        answer = recommender.recommend([ask(recommender, state, num_items=150)])[0]
        timelines = state.events
        watched = {
            item.decode()
            for item, ms in zip(timelines.item_id, timelines.watch_ms, strict=True)
            if ms >= 30_000
        }
        assert watched
        assert not watched & set(ids(answer))
        assert answer.dropped["watched"] >= len(
            watched & set(bundle.catalogue.item_ids(np.arange(60)))
        )


def test_items_seen_long_ago_do_not_come_back(recommender):
    state = UserState("nobody")
    first = ids(recommender.recommend([ask(recommender, state)])[0])
    later = replace(state, seen=frozenset(first[:3]))
    assert not set(first[:3]) & set(ids(recommender.recommend([ask(recommender, later)])[0]))


def test_rewatch_is_allowed_where_asked(recommender, states):
    everything = recommender.recommend(
        [ask(recommender, states[0], num_items=150, seen_removed=False)]
    )[0]
    assert "watched" not in everything.dropped


def test_excluded_and_current_items_are_left_out(recommender):
    state = UserState("nobody")
    first = ids(recommender.recommend([ask(recommender, state)])[0])
    answer = recommender.recommend(
        [
            ask(
                recommender,
                state,
                excluded_item_ids=frozenset(first[:2]),
                context={"current_item_id": first[2]},
            )
        ]
    )[0]
    assert not set(first[:3]) & set(ids(answer))
    assert (answer.dropped["excluded"], answer.dropped["current"]) == (2, 1)


def test_filter_is_exact_and_unknown_value_refused(recommender, bundle):
    channel = bundle.catalogue.table["channel_id"][0].as_py()
    own = {
        item
        for item, owner in zip(
            bundle.catalogue.table["item_id"].to_pylist(),
            bundle.catalogue.table["channel_id"].to_pylist(),
            strict=True,
        )
        if owner == channel
    }
    item_filter = ItemFilter(channel_ids=frozenset({channel}))
    request = ask(recommender, UserState("nobody"), item_filter=item_filter, num_items=150)
    assert set(ids(recommender.recommend([request])[0])) <= own
    wrong = replace(request, item_filter=ItemFilter(languages=frozenset({"xx"})))
    with pytest.raises(RequestError, match=r"filter\.languages"):
        recommender.recommend([wrong])


def test_filter_that_leaves_nothing_gives_an_empty_answer_and_no_failure(recommender, states):
    nothing = ItemFilter(max_duration_ms=0)
    requests = [ask(recommender, state, item_filter=nothing) for state in states[:2]]
    for answer in recommender.recommend(requests):
        assert (answer.items, answer.failures) == ((), {})
    mixed = recommender.recommend([*requests, ask(recommender, states[2])])
    assert [len(answer.items) for answer in mixed] == [0, 0, 20]


def test_history_and_context_change_the_answer(recommender, states):
    empty = recommender.recommend([ask(recommender, UserState("nobody"))])[0]
    known = recommender.recommend([ask(recommender, states[0], seen_removed=False)])[0]
    assert ids(empty) != ids(known)
    elsewhere = ask(recommender, UserState("nobody"), context={"surface": "no such surface"})
    seconds = [item.expected_watch_seconds for item in recommender.recommend([elsewhere])[0].items]
    assert np.isfinite(seconds).all()


def test_events_after_now_change_nothing(recommender, states):
    state = states[0]
    early = int(state.events.moment[len(state.events) // 2])
    request = replace(ask(recommender, state), now=early)
    cut = replace(request, user=state.as_of(early))
    assert recommender.recommend([request])[0].items == recommender.recommend([cut])[0].items


def test_answer_is_ordered_by_the_formula_and_still_tells_seconds(recommender, states, monkeypatch):
    def shortest_first(values, user_categorical):
        assert user_categorical.shape[1] > 0
        return -values["expected_seconds"]

    request = ask(recommender, states[0])
    usual = recommender.recommend([request])[0].items
    monkeypatch.setattr(recommender._scoring._formula, "scores", shortest_first)
    answer = recommender.recommend([request])[0]
    seconds = [item.expected_watch_seconds for item in answer.items]
    assert answer.degraded_stages == ()
    assert seconds == sorted(seconds)
    assert seconds[0] < usual[0].expected_watch_seconds


def test_score_of_nan_is_not_believed(recommender, states, monkeypatch):
    monkeypatch.setattr(
        recommender._scoring._formula,
        "scores",
        lambda values, user_categorical: values["expected_seconds"] * np.nan,
    )
    answer = recommender.recommend([ask(recommender, states[0])])[0]
    assert answer.degraded_stages == ("ranker",)


def test_broken_ranker_leaves_candidate_order(recommender, states, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("dead")

    monkeypatch.setattr(recommender._scoring, "score", fail)
    request = ask(recommender, states[0])
    answer = recommender.recommend([request])[0]
    candidates = recommender.candidates([request])[0]
    assert answer.degraded_stages == ("ranker",)
    assert ids(answer) == recommender.bundle.catalogue.item_ids(candidates.rows[:20])
    assert answer.items[0].expected_watch_seconds is None


def test_ranker_giving_nan_is_not_believed(recommender, states, monkeypatch):
    ranker = recommender._scoring._ranker
    genuine = ranker.score
    monkeypatch.setattr(
        type(ranker),
        "score",
        lambda self, features: {"expected_seconds": genuine(features)["expected_seconds"] * np.nan},
    )
    answer = recommender.recommend([ask(recommender, states[0])])[0]
    assert answer.degraded_stages == ("ranker",)


def test_broken_index_gives_popular_items(recommender, bundle, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("dead")

    monkeypatch.setattr(recommender._retrieval, "by_vector", fail)
    answer = recommender.recommend([ask(recommender, UserState("nobody"))])[0]
    assert answer.degraded_stages == ("index",)
    assert {item.source for item in answer.items} == {"popular"}
    assert set(ids(answer)) <= set(bundle.catalogue.item_ids(np.asarray(bundle.popular)))


def test_index_that_gives_no_numbers_falls_back_to_popular_items(recommender, bundle, monkeypatch):
    genuine = bundle.index.search

    def search(vectors, k):
        scores, rows = genuine(vectors, k)
        scores = scores.copy()
        scores[:, 1] = np.nan
        return scores, rows

    monkeypatch.setattr(bundle.index, "search", search)
    answer = recommender.recommend([ask(recommender, UserState("nobody"))])[0]
    assert answer.degraded_stages == ("index",)
    assert "not finite" in answer.failures["index"]
    assert {item.source for item in answer.items} == {"popular"}


def test_late_request_skips_the_ranker(recommender, states):
    request = ask(recommender, states[0])
    recommender.recommend([request])
    left = iter([10.0])  # until the answer has begun
    late = recommender.recommend([request], time_remaining=lambda: next(left, 0.0))[0]
    assert late.degraded_stages == ("ranker",)
    assert recommender.recommend([request], time_remaining=lambda: 10.0)[0].degraded_stages == ()


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


def test_ranker_that_hangs_leaves_candidate_order_in_time(
    recommender, states, release, monkeypatch
):
    monkeypatch.setattr(recommender._scoring, "score", lambda *_, **__: release.wait())
    request = ask(recommender, states[0])
    started = time.perf_counter()
    answer = recommender.recommend([request], time_remaining=lambda: 0.3)[0]
    assert time.perf_counter() - started < 2
    assert answer.degraded_stages == ("ranker",)
    candidates = recommender.candidates([request])[0]
    assert ids(answer) == recommender.bundle.catalogue.item_ids(candidates.rows[:20])


def test_index_that_hangs_gives_popular_items_in_time(
    recommender, bundle, states, release, monkeypatch
):
    monkeypatch.setattr(recommender._retrieval, "by_vector", lambda *_: release.wait())
    request = ask(recommender, states[0])
    answer = recommender.recommend([request], time_remaining=lambda: 0.1)[0]
    assert answer.degraded_stages == ("index", "ranker")
    assert len(answer.items) == 20
    assert {item.source for item in answer.items} <= {"popular", "catalogue"}
    watched = states[0].events.item_id[recommender.is_watch(states[0].events)]
    assert set(ids(answer)).isdisjoint(name.decode() for name in watched.tolist())


def test_index_that_hangs_is_not_waited_for_twice(recommender, states, release, monkeypatch):
    fresh, asked = Recommender(recommender.bundle), []
    monkeypatch.setattr(fresh._retrieval, "by_vector", lambda *_: (asked.append(1), release.wait()))
    request = ask(fresh, states[0])
    fresh.recommend([request], time_remaining=lambda: 0.05)
    monkeypatch.setattr(fresh._guard, "run", raise_busy)
    started = time.perf_counter()
    answer = fresh.recommend([request], time_remaining=lambda: 60.0)[0]
    assert time.perf_counter() - started < 5
    assert answer.degraded_stages == ("index", "ranker")
    assert len(asked) == 1


def raise_busy(work, seconds):
    raise BusyError("calls before this one hang")


@pytest.mark.parametrize("left", [0.05, 1.0])
def test_hanging_stage_is_waited_for_less_than_the_time_that_is_left(
    recommender, states, left, monkeypatch
):
    waited = []

    def run(work, seconds):
        waited.append(seconds)
        return work()

    monkeypatch.setattr(recommender._guard, "run", run)
    recommender.recommend([ask(recommender, states[0])], time_remaining=lambda: left)
    assert 0.7 * left < waited[0] < left


def test_what_comes_too_late_changes_no_answer_that_was_given(
    recommender, states, release, monkeypatch
):
    genuine, done = recommender._scoring.score, threading.Event()

    def late(*arguments, **options):
        release.wait()
        try:
            return genuine(*arguments, **options)
        finally:
            done.set()

    monkeypatch.setattr(recommender._scoring, "score", late)
    answer = recommender.recommend([ask(recommender, states[0])], time_remaining=lambda: 0.1)[0]
    before = repr(answer)
    release.set()
    assert done.wait(5)
    assert repr(answer) == before


def test_part_that_always_hangs_is_soon_not_waited_for(recommender, states, release, monkeypatch):
    monkeypatch.setattr("recsys.recommender.NUM_GUARDED", 2)
    fresh = Recommender(recommender.bundle)
    monkeypatch.setattr(fresh._scoring, "score", lambda *_, **__: release.wait())
    request = ask(fresh, states[0])
    for _ in range(2):
        fresh.recommend([request], time_remaining=lambda: 0.05)
    started = time.perf_counter()
    answer = fresh.recommend([request], time_remaining=lambda: 60.0)[0]
    assert time.perf_counter() - started < 5
    assert "hang" in answer.failures["ranker"]
    assert answer.degraded_stages == ("ranker",)
    assert {item.source for item in answer.items} == {"candidate_net"}


def test_counted_events_reach_the_features(recommender, bundle):
    item = bundle.catalogue.item_ids(np.array([0]))[0]
    event = UserEvents(
        item_id=np.array([item.encode()] * 2),
        event_id=np.array([b"e1", b"e2"]),
        moment=np.array([bundle.data_until, bundle.data_until - 1]),
        outcome_moment=np.array([bundle.data_until, bundle.data_until - 1]),
        has_time=np.array([True, True]),
        watch_ms=np.array([40_000, 40_000]),
        clicked=np.array([1, 1], np.int8),
        watch_label=np.array([-1, -1], np.int8),
        is_impression=np.array([True, True]),
    )
    before = recommender._counters.of_items(np.array([0]))[0].copy()
    recommender.count_events(event)
    after = recommender._counters.of_items(np.array([0]))[0]
    assert (after - before).tolist() == [1, 1, 1, 1, 40_000]
    recommender.count_events(event, sign=-1)
    np.testing.assert_array_equal(recommender._counters.of_items(np.array([0]))[0], before)
    recommender.recount_events([event, event])
    again = recommender._counters.of_items(np.array([0]))[0]
    np.testing.assert_array_equal(again - before, 2 * (after - before))
    recommender.recount_events([])
    np.testing.assert_array_equal(recommender._counters.of_items(np.array([0]))[0], before)


def test_similar_items_are_the_nearest_by_cosine(recommender, bundle):
    width = bundle.settings.candidates.embedding_width  # behind it stands the popularity
    vectors = np.asarray(bundle.item_vectors, np.float64)[:, :width]
    assert vectors.shape[1] < bundle.item_vectors.shape[1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[4]
    cosine[4] = -2
    item = bundle.catalogue.item_ids(np.array([4]))[0]
    found = recommender.similar_items(item, 5)
    assert [name for name, _ in found] == bundle.catalogue.item_ids(np.argsort(-cosine)[:5])
    with pytest.raises(RequestError, match="catalogue"):
        recommender.similar_items("no such item", 5)


def test_explanation_names_position_or_reason(recommender, states):
    request = ask(recommender, states[0], explained=True)
    answer = recommender.recommend([request])[0]
    explained = answer.items[3]
    found = recommender.explain_item(request, explained.item_id)
    assert found["position"] == 3
    assert found["expected_watch_seconds"] == pytest.approx(
        explained.expected_watch_seconds, rel=1e-5
    )
    assert explained.explanation.features["duration_seconds"] > 0
    watched = states[0].events.item_id[states[0].events.watch_ms >= 30_000][0].decode()
    assert recommender.explain_item(request, watched)["reason"] == "removed: watched"
    assert "catalogue" in recommender.explain_item(request, "no such item")["reason"]
    out = recommender.explain_item(
        replace(request, excluded_item_ids=frozenset({explained.item_id})), explained.item_id
    )
    assert out["reason"] == "removed: excluded"
    candidates = recommender.bundle.catalogue.item_ids(recommender.candidates([request])[0].rows)
    below = next(item for item in candidates if item not in ids(answer))
    assert "below the page" in recommender.explain_item(request, below)["reason"]
    everything = recommender.recommend([replace(request, num_items=150)])[0]
    gone = set(recommender.bundle.catalogue.item_ids(np.arange(60))) - set(ids(everything))
    reasons = {recommender.explain_item(request, item)["reason"] for item in gone}
    assert reasons <= {"removed: watched", "not among the best 60 candidates"}
    assert "not among the best 60 candidates" in reasons


def test_no_request_gives_no_answer(recommender):
    assert recommender.recommend([]) == []


def test_prediction_for_an_item_is_what_the_answer_says_of_it(recommender, states):
    requests = [ask(recommender, state) for state in states]
    answers = recommender.recommend(requests)
    items = [answer.items[number % 3] for number, answer in enumerate(answers)]
    items_of = [item.item_id for item in items]
    items_of[5] = "nobody knows it"
    predicted = recommender.predict(requests, items_of)
    expected = np.array([item.expected_watch_seconds for item in items])
    expected[5] = np.nan
    np.testing.assert_allclose(predicted["expected_seconds"], expected, rtol=1e-4)
    assert {"median_seconds", "completion"} <= set(predicted)


def test_without_a_ranking_net_nothing_is_predicted(bundle, states):
    recommender = Recommender(replace(bundle, ranker=None))
    assert recommender.predict([ask(recommender, states[0])], ["i"]) == {}


POLICIES = {
    "greedy": (),
    "plackett_luce": (
        "serving.exploration.policy=plackett_luce",
        "serving.exploration.temperature=20",
    ),
    "thompson": ("serving.exploration.policy=thompson",),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_propensities_of_a_page_are_those_it_was_drawn_with(tiny_bundle, states, policy):
    recommender = Recommender(Bundle.load(tiny_bundle(*POLICIES[policy])))
    requests = [ask(recommender, state, num_items=6) for state in states[:5]]
    answers = recommender.recommend(requests)
    found = recommender.propensities(requests, [ids(answer) for answer in answers])
    for answer, propensity in zip(answers, found, strict=True):
        drawn = [1.0 if item.propensity is None else item.propensity for item in answer.items]
        np.testing.assert_allclose(propensity, drawn, rtol=1e-6)


def test_greedy_order_agrees_with_a_page_place_by_place(recommender, states):
    request = ask(recommender, states[0], num_items=5)
    first, second, third, fourth, _ = ids(recommender.recommend([request])[0])
    pages = [
        [second, first, third],  # after the first two, however ordered, the third is next
        ["nothing", first, second],
        [first, fourth, second],
    ]
    found = recommender.propensities([request] * 3, pages)
    assert [each.tolist() for each in found] == [[0, 1, 1], [0, 1, 1], [1, 0, 1]]


def test_what_is_no_candidate_is_never_drawn(tiny_bundle, states):
    recommender = Recommender(Bundle.load(tiny_bundle(*POLICIES["plackett_luce"])))
    request = ask(recommender, states[0], num_items=3)
    page = ids(recommender.recommend([request])[0])
    whole, holed = recommender.propensities(
        [request, request], [page, [page[0], "nothing", page[1]]]
    )
    np.testing.assert_allclose(holed, [whole[0], 0, whole[1]])


def test_propensities_need_a_ranking_net(bundle, states):
    unranked = Recommender(replace(bundle, ranker=None))
    with pytest.raises(RequestError, match="ranking net"):
        unranked.propensities([ask(unranked, states[0])], [["i1"]])
