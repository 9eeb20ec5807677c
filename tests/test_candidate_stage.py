"""Several candidate sources behind one trained bundle, through the recommender."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.data.columns import integers
from recsys.data.prepared import load_prepared
from recsys.data.user_states import user_states
from recsys.errors import BundleError, ConfigError
from recsys.index.exact import ExactIndex
from recsys.recommender import Recommender
from recsys.requests import ItemFilter, Request, SourceCounts
from recsys.settings import SourceSettings
from recsys.state import UserEvents, UserState
from recsys.user_views import view_users

QUOTAS = {"co_visitation": 8, "recent_popularity": 7, "same_channel": 6, "new_items": 5}
NUM_CANDIDATES = 60
NUM_VECTORS = 137
"""The trained items of the tiny world; thirteen are not."""
MINUTE = 60_000_000


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    """The tiny bundle with every source on, and two new items; untrained ones have no vector."""
    switches = [f"serving.sources.{name}={quota}" for name, quota in QUOTAS.items()]
    bundle = Bundle.load(tiny_bundle(*switches))
    vectors = np.asarray(bundle.item_vectors)[:NUM_VECTORS]
    upload_time = np.array(bundle.item_features.upload_time)
    upload_time[[141, 143]] = bundle.data_until - MINUTE
    return replace(
        bundle,
        item_vectors=vectors,
        index=ExactIndex(vectors),
        item_features=replace(bundle.item_features, upload_time=upload_time),
    )


def with_sources(bundle, **quotas):
    sources = SourceSettings(**quotas)
    serving = bundle.settings.serving.model_copy(update={"sources": sources})
    return replace(bundle, settings=bundle.settings.model_copy(update={"serving": serving}))


@pytest.fixture(scope="module")
def recommender(bundle):
    return Recommender(bundle)


@pytest.fixture(scope="module")
def states(tiny_run, bundle):
    prepared, now = load_prepared(tiny_run / "prepared"), bundle.data_until
    known = [state.as_of(now) for state in user_states(prepared, prepared.shards[0])]
    return [*sorted(known, key=lambda state: -len(state.events))[:12], UserState("nobody")]


def ask(recommender, state, **changes):
    return Request(state, now=recommender.data_until, **changes)


def found_rows(candidates, name):
    return set(candidates.rows[~np.isnan(candidates.found_by[name])].tolist())


def ids(answer):
    return [item.item_id for item in answer.items]


def test_sources_bring_their_quotas_and_the_net_fills_the_rest(bundle, recommender, states):
    requests = [ask(recommender, state) for state in states]
    alone = Recommender(with_sources(bundle)).candidates(requests)
    for found, net in zip(recommender.candidates(requests), alone, strict=True):
        rows = found.rows.tolist()
        assert len(set(rows)) == len(rows) == NUM_CANDIDATES
        wanted = set().union(*(found_rows(found, name) for name in QUOTAS))
        for name, quota in QUOTAS.items():
            assert len(found_rows(found, name)) <= quota
        others = [row for row in net.rows.tolist() if row not in wanted]
        assert set(rows) == wanted | set(others[: NUM_CANDIDATES - len(wanted)])
        assert found_rows(found, "candidate_net") == set(rows) & set(net.rows.tolist())
        assert len(wanted - set(net.rows.tolist())) > 0


def test_known_users_get_something_of_every_source(recommender, states):
    found = recommender.candidates([ask(recommender, states[0])])[0]
    assert {name: len(found_rows(found, name)) for name in QUOTAS} == QUOTAS
    nobody = recommender.candidates([ask(recommender, states[-1])])[0]
    counts = {name: len(found_rows(nobody, name)) for name in QUOTAS}
    assert counts == {**QUOTAS, "co_visitation": 0, "same_channel": 0}
    assert recommender.recommend([ask(recommender, states[-1])])[0].degraded_stages == ()


def test_every_candidate_has_the_score_of_the_net(bundle, recommender, states):
    requests = [ask(recommender, state) for state in states]
    users = view_users(requests, bundle)
    vectors = bundle.user_tower.vectors(users.tower_inputs)
    for position, found in enumerate(recommender.candidates(requests)):
        own = view_users(requests[position : position + 1], bundle).successions
        every = recommender._retrieval.all_scores(vectors[[position]], own)
        known = found.rows < NUM_VECTORS
        np.testing.assert_allclose(found.scores[known], every[found.rows[known]], rtol=1e-4)
        assert np.isnan(found.scores[~known]).all()
        assert (np.diff(found.scores[known]) <= 0).all()
        assert known[: known.sum()].all()


def test_scores_of_the_net_and_ranks_are_told_to_the_ranker_where_it_learned_them(
    bundle, recommender, states, monkeypatch
):
    requests = [ask(recommender, states[0])]
    found = recommender.candidates(requests)[0]
    spec = replace(bundle.ranker.spec, retrieval_trained=True)
    monkeypatch.setattr(recommender._scoring._ranker, "spec", spec)
    users = view_users(requests, bundle)
    features = recommender._scoring._features(users, [found], np.array([0]))
    names = list(spec.item_numeric)
    told = features["candidate_numeric"][0]
    known = found.rows < NUM_VECTORS
    np.testing.assert_array_equal(told[:, names.index("retrieval_score")], found.scores)
    ranks = np.where(known, np.arange(len(known)), np.nan)
    np.testing.assert_array_equal(told[:, names.index("retrieval_rank")], ranks)


def test_items_without_a_vector_are_ranked_and_explained(recommender, states):
    request = ask(recommender, states[0], num_items=NUM_CANDIDATES, explained=True)
    answer = recommender.recommend([request])[0]
    catalogue = recommender.bundle.catalogue
    fresh = [item for item in answer.items if catalogue.rows([item.item_id])[0] >= NUM_VECTORS]
    assert fresh
    for item in fresh:
        assert item.explanation.candidate_score is None
        assert "candidate_net" not in item.sources
        assert item.source == item.sources[0]
        assert np.isfinite(item.expected_watch_seconds)
        assert set(item.explanation.source_scores) == set(item.sources)
    several = [item for item in answer.items if len(item.sources) > 1]
    assert any(item.source == "candidate_net" for item in several)


def test_answer_counts_candidates_and_items_by_source(recommender, states):
    answer = recommender.recommend([ask(recommender, states[0])])[0]
    counts = answer.source_counts
    assert list(counts) == ["candidate_net", *QUOTAS]
    assert {name: each.candidates for name, each in counts.items() if name in QUOTAS} == QUOTAS
    for name, each in counts.items():
        assert each.items == sum(name in item.sources for item in answer.items)


@pytest.mark.parametrize("broken", QUOTAS)
def test_broken_source_costs_only_itself_and_is_named(broken, bundle, states, monkeypatch):
    recommender = Recommender(bundle)

    def fail(*arguments):
        raise RuntimeError("dead")

    monkeypatch.setattr(recommender._candidate_stage._sources[broken], "find", fail)
    others = {name: quota for name, quota in QUOTAS.items() if name != broken}
    healthy = Recommender(with_sources(bundle, **others))
    requests = [ask(recommender, state) for state in states]
    for answer, expected in zip(
        recommender.recommend(requests), healthy.recommend(requests), strict=True
    ):
        assert answer.degraded_stages == (broken,)
        assert "dead" in answer.failures[broken]
        assert ids(answer) == ids(expected)
        assert broken not in answer.source_counts


def test_broken_net_leaves_popular_items_and_the_other_sources(bundle, states, monkeypatch):
    recommender = Recommender(bundle)
    monkeypatch.setattr(recommender._retrieval, "by_vector", None)
    answer = recommender.recommend([ask(recommender, states[0], num_items=NUM_CANDIDATES)])[0]
    assert answer.degraded_stages == ("index",)
    assert len(set(ids(answer))) == NUM_CANDIDATES
    assert list(answer.source_counts) == ["popular", *QUOTAS]
    found = recommender.candidates([ask(recommender, states[0])])[0]
    assert np.isnan(found.scores).all()
    popular = [row for row in found.rows.tolist() if row in found_rows(found, "popular")]
    places = {row: place for place, row in enumerate(bundle.popular.tolist())}
    assert popular == sorted(popular, key=places.get)


def watches(bundle, row, count):
    item_id = bundle.catalogue.item_ids(np.array([row]))[0].encode()
    moment = np.full(count, bundle.data_until + MINUTE)
    return UserEvents(
        item_id=np.array([item_id] * count),
        event_id=np.array([f"e{number}".encode() for number in range(count)]),
        moment=moment,
        outcome_moment=moment,
        has_time=np.ones(count, bool),
        watch_ms=np.full(count, 600_000),
        clicked=np.full(count, 1, np.int8),
        watch_label=np.full(count, -1, np.int8),
        is_impression=np.ones(count, bool),
    )


def test_recent_popularity_follows_the_very_next_answer(bundle, states):
    recommender, request = Recommender(bundle), Request(states[-1], now=bundle.data_until + 1)
    before = recommender.candidates([request])[0]
    row = next(row for row in range(150)[::-1] if row not in before.rows)
    events = watches(bundle, row, 1000)
    recommender.count_events(events)
    after = recommender.candidates([request])[0]
    assert row in found_rows(after, "recent_popularity")
    recommender.count_events(events, sign=-1)
    assert recommender.candidates([request])[0].rows.tolist() == before.rows.tolist()
    recommender.recount_events([events])
    assert recommender.candidates([request])[0].rows.tolist() == after.rows.tolist()
    recommender.recount_events([])
    assert recommender.candidates([request])[0].rows.tolist() == before.rows.tolist()


def test_allowed_items_alone_are_scored_and_the_index_is_not_asked(bundle, states, monkeypatch):
    recommender = Recommender(bundle)
    monkeypatch.setattr(bundle.index, "search", None)
    allowed = np.arange(3, 150, 7)
    names = frozenset(bundle.catalogue.item_ids(allowed)) | {"no such item"}
    request = ask(recommender, states[0], allowed_item_ids=names, num_items=NUM_CANDIDATES)
    found = recommender.candidates([request])[0]
    watched = view_users([request], bundle).watched_rows(0)
    assert sorted(found.rows.tolist()) == sorted(set(allowed.tolist()) - set(watched.tolist()))
    assert found.dropped == {"watched": len(set(allowed.tolist()) & set(watched.tolist()))}
    assert list(found.found_by) == ["allowed"]
    known = found.rows < NUM_VECTORS
    assert (np.diff(found.scores[known]) <= 0).all()
    assert known[: known.sum()].all()
    answer = recommender.recommend([request])[0]
    assert answer.degraded_stages == ()
    assert {item.source for item in answer.items} == {"allowed"}
    nothing = replace(request, allowed_item_ids=frozenset({"no such item"}))
    assert recommender.recommend([nothing])[0].items == ()


def test_filter_that_leaves_only_items_without_a_vector_is_answered(bundle, states):
    recommender = Recommender(with_sources(bundle))
    excluded = frozenset(bundle.catalogue.item_ids(np.arange(3, NUM_VECTORS)))
    request = ask(recommender, states[-1], excluded_item_ids=excluded, num_items=10)
    answer = recommender.recommend([request])[0]
    assert answer.source_counts == {
        "candidate_net": SourceCounts(3, 3),
        "catalogue": SourceCounts(7, 7),
    }
    rows = bundle.catalogue.rows(ids(answer))
    available = integers(bundle.catalogue.table, "available_from", 0) <= request.now
    without_vector = np.flatnonzero(available[NUM_VECTORS:])[:7] + NUM_VECTORS
    assert sorted(rows.tolist()) == [0, 1, 2, *without_vector.tolist()]
    usual = recommender.recommend([ask(recommender, states[-1])])[0]
    assert list(usual.source_counts) == ["candidate_net"]


def test_broken_net_does_not_shorten_a_filtered_answer(bundle, states, monkeypatch):
    recommender = Recommender(replace(with_sources(bundle), popular=np.arange(3, dtype=np.int32)))
    monkeypatch.setattr(recommender._retrieval, "by_vector", None)
    shortest = ItemFilter(max_duration_ms=60_000)
    answer = recommender.recommend([ask(recommender, states[-1], item_filter=shortest)])[0]
    assert len(answer.items) == 20
    assert answer.degraded_stages == ("index",)


def test_explanation_of_an_item_names_its_sources(recommender, states):
    request = ask(recommender, states[0], explained=True)
    answer = recommender.recommend([request])[0]
    item = next(item for item in answer.items if len(item.sources) > 1)
    assert recommender.explain_item(request, item.item_id)["sources"] == list(item.sources)
    fresh = recommender.bundle.catalogue.item_ids(np.array([140]))[0]
    told = recommender.explain_item(request, fresh)
    assert told["candidate_score"] is None
    assert np.isfinite(told["expected_watch_seconds"])


@pytest.mark.parametrize("name", ["co_visitation", "recent_popularity"])
def test_bundle_without_the_arrays_of_its_source_is_refused(name, tiny_run):
    bundle = with_sources(Bundle.load(tiny_run / "bundle"), **{name: 5})
    with pytest.raises(BundleError, match=f"source '{name}'"):
        Recommender(bundle)


def test_arrays_come_with_the_sources_that_are_on_alone(tiny_run, bundle):
    plain = Bundle.load(tiny_run / "bundle").manifest["files"]
    assert set(bundle.manifest["files"]) - set(plain) == {
        "sources/co_visits/rows.npy",
        "sources/co_visits/similarity.npy",
        "sources/recent_watches.npy",
    }


def test_quotas_beyond_the_candidates_are_refused(tiny_bundle):
    with pytest.raises(ConfigError, match="at most num_candidates = 60"):
        tiny_bundle("serving.sources.new_items=61")
