"""Arranged pages through the recommender: with scores, with draws, and when something breaks."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.data.prepared import load_prepared
from recsys.data.user_states import user_states
from recsys.errors import ConfigError
from recsys.exploration.thompson import thompson_propensities
from recsys.recommender import Recommender
from recsys.requests import ArrangementChange, ItemFilter, Request
from recsys.settings import ArrangementSettings, BoostSettings, OrderSettings

GREEDY = OrderSettings()
DRAWN = OrderSettings(policy="plackett_luce", temperature=5.0)
THOMPSON = OrderSettings(policy="thompson")
CAPPED = ArrangementSettings(max_per_channel=1)
BOOSTED = ArrangementSettings(
    boosts=(BoostSettings(channel_ids=("c3",), factor=10.0, added_seconds=7.0),)
)


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    """With the neural process."""
    return Bundle.load(tiny_bundle("serving.exploration.policy=thompson"))


@pytest.fixture(scope="module")
def request_of(tiny_run, bundle):
    prepared = load_prepared(tiny_run / "prepared")
    state = next(user_states(prepared, prepared.shards[0])).as_of(bundle.data_until)

    def new(**changes):
        values = {"num_items": 20, "page_size": 5, "request_id": "r", **changes}
        return Request(state, now=bundle.data_until, **values)

    return new


@pytest.fixture
def open_with(bundle):
    def opened(arrangement, exploration=GREEDY):
        changes = {"arrangement": arrangement, "exploration": exploration}
        serving = bundle.settings.serving.model_copy(update=changes)
        settings = bundle.settings.model_copy(update={"serving": serving})
        return Recommender(replace(bundle, settings=settings))

    return opened


def ids(answer):
    return [item.item_id for item in answer.items]


def most_of_a_channel(bundle, answer, size=5):
    channel = bundle.item_features.channel[bundle.catalogue.rows(ids(answer))]
    pages = [channel[start : start + size] for start in range(0, len(channel), size)]
    return [max(Counter(page.tolist()).values()) for page in pages]


def test_cap_of_the_bundle_holds_on_every_page_and_the_request_may_change_it(
    bundle, open_with, request_of
):
    recommender, plain = open_with(CAPPED), open_with(ArrangementSettings())
    usual = ids(plain.recommend([request_of()])[0])
    assert max(most_of_a_channel(bundle, plain.recommend([request_of()])[0])) > 1
    assert most_of_a_channel(bundle, recommender.recommend([request_of()])[0]) == [1] * 4
    free = request_of(arrangement=ArrangementChange(max_per_channel=0))
    assert ids(recommender.recommend([free])[0]) == usual
    two = request_of(arrangement=ArrangementChange(max_per_channel=2))
    assert max(most_of_a_channel(bundle, recommender.recommend([two])[0])) == 2
    one = request_of(arrangement=ArrangementChange(max_per_channel=1))
    assert ids(plain.recommend([one])[0]) == ids(recommender.recommend([request_of()])[0])


def test_who_filters_by_channel_gets_a_full_page_of_it(open_with, request_of):
    only = ItemFilter(channel_ids=frozenset({"c1"}))
    request = request_of(item_filter=only, num_items=5, seen_removed=False)
    assert len(open_with(CAPPED).recommend([request])[0].items) == 5
    capped = replace(request, arrangement=ArrangementChange(max_per_channel=2))
    assert len(open_with(CAPPED).recommend([capped])[0].items) == 2


def test_diversity_of_the_request_makes_the_page_less_alike(bundle, open_with, request_of):
    recommender = open_with(ArrangementSettings())

    def likeness(diversity):
        change = ArrangementChange(diversity=diversity)
        answer = recommender.recommend([request_of(num_items=8, arrangement=change)])[0]
        width = bundle.settings.candidates.embedding_width
        vectors = bundle.item_vectors[bundle.catalogue.rows(ids(answer)), :width]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.mean((unit @ unit.T)[np.triu_indices(len(unit), 1)])

    assert likeness(0.95) < likeness(0.5) < likeness(0.0)


def test_boosts_change_the_order_and_are_explained_beside_the_expected_seconds(
    bundle, open_with, request_of
):
    request = request_of(num_items=60, explained=True)
    plain = open_with(ArrangementSettings()).recommend([request])[0]
    answer = open_with(BOOSTED).recommend([request])[0]
    seconds = {item.item_id: item.expected_watch_seconds for item in plain.items}
    table = bundle.catalogue.table.to_pylist()
    is_meant = {item["item_id"]: item["channel_id"] == "c3" for item in table}
    scores = []
    for item in answer.items:
        assert item.expected_watch_seconds == seconds[item.item_id]
        factor, added = (10.0, 7.0) if is_meant[item.item_id] else (1.0, 0.0)
        assert item.explanation.boost == {"factor": factor, "added_seconds": added}
        scores.append(factor * seconds[item.item_id] + added)
    assert scores == sorted(scores, reverse=True)
    assert ids(answer) != ids(plain)
    assert plain.items[0].explanation.boost == {}


def test_draws_within_caps_have_propensities_and_begin_alike(bundle, open_with, request_of):
    recommender = open_with(CAPPED, DRAWN)
    answer = recommender.recommend([request_of()])[0]
    assert most_of_a_channel(bundle, answer) == [1] * 4
    assert all(0 < item.propensity <= 1 for item in answer.items)
    assert ids(recommender.recommend([request_of(num_items=7)])[0]) == ids(answer)[:7]
    assert ids(recommender.recommend([request_of(request_id="s")])[0]) != ids(answer)


def test_plackett_luce_draws_from_boosted_scores(open_with, request_of):
    answer = open_with(BOOSTED, DRAWN).recommend([request_of(num_items=60, explained=True)])[0]
    for item in answer.items:
        boost, drawn_from = item.explanation.boost, item.explanation.exploration
        boosted = boost["factor"] * item.expected_watch_seconds + boost["added_seconds"]
        assert drawn_from["score"] == pytest.approx(boosted, rel=1e-5)


def test_thompson_draws_around_boosted_medians_with_their_propensities(open_with, request_of):
    request = request_of(num_items=60, explained=True)
    plain = open_with(ArrangementSettings(), THOMPSON).recommend([request])[0]
    answer = open_with(BOOSTED, THOMPSON).recommend([request])[0]
    before = {
        item.item_id: item.explanation.exploration["mean_log_seconds"] for item in plain.items
    }
    columns = {
        name: np.array([item.explanation.exploration[name] for item in answer.items])
        for name in ("mean_log_seconds", "deviation_log_seconds")
    }
    for item, mean in zip(answer.items, columns["mean_log_seconds"], strict=True):
        boost = item.explanation.boost
        median = max(boost["factor"] * np.expm1(before[item.item_id]) + boost["added_seconds"], 0)
        assert mean == pytest.approx(np.log1p(median), rel=1e-5)
    expected = thompson_propensities(*columns.values(), np.arange(60))
    np.testing.assert_allclose([item.propensity for item in answer.items], expected, rtol=5e-3)


def test_thompson_draws_within_caps_have_no_propensity(bundle, open_with, request_of):
    answer = open_with(CAPPED, THOMPSON).recommend([request_of(explained=True)])[0]
    assert most_of_a_channel(bundle, answer) == [1] * 4
    assert {item.propensity for item in answer.items} == {None}
    assert answer.items[0].explanation.exploration["deviation_log_seconds"] > 0
    assert answer.degraded_stages == ()


def fail(*arguments, **options):
    raise RuntimeError("dead")


@pytest.mark.parametrize("exploration", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_broken_arrangement_leaves_the_order_of_the_scores(
    exploration, open_with, request_of, monkeypatch
):
    recommender = open_with(CAPPED, exploration)
    monkeypatch.setattr(recommender._order_stage._arrangement, "limits", fail)
    answer = recommender.recommend([request_of()])[0]
    assert answer.degraded_stages == ("arrangement",)
    plain = open_with(ArrangementSettings()).recommend([request_of()])[0]
    assert ids(answer) == ids(plain)
    assert {item.propensity for item in answer.items} == {None}


def test_caps_hold_without_the_ranker_and_without_the_process(
    bundle, open_with, request_of, monkeypatch
):
    recommender = open_with(CAPPED, THOMPSON)
    monkeypatch.setattr(recommender._ordering, "draw", fail)
    answer = recommender.recommend([request_of()])[0]
    assert answer.degraded_stages == ("exploration",)
    assert ids(answer) == ids(open_with(CAPPED).recommend([request_of()])[0])
    monkeypatch.setattr(recommender._scoring, "score", fail)
    answer = recommender.recommend([request_of()])[0]
    assert answer.degraded_stages == ("ranker",)
    assert most_of_a_channel(bundle, answer) == [1] * 4
    best = bundle.catalogue.item_ids(recommender.candidates([request_of()])[0].rows[:1])
    assert ids(answer)[:1] == best


def test_boost_about_a_column_that_the_items_lack_ends_the_bundle_step(tiny_bundle):
    with pytest.raises(ConfigError, match="expected a column of the items, got 'primium'"):
        tiny_bundle(
            'serving.arrangement.boosts=[{column = "primium", values = ["1"], factor = 2.0}]'
        )
