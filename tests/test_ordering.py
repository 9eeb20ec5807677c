"""Orders that are drawn, through the recommender and a trained bundle."""

import shutil
from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.data.prepared import load_prepared
from recsys.data.user_states import user_states
from recsys.errors import BundleError, ConfigError
from recsys.exploration.plackett_luce import plackett_luce_propensities
from recsys.exploration.thompson import thompson_propensities
from recsys.ordering import Ordering
from recsys.recommender import Recommender
from recsys.requests import ItemFilter, Request
from recsys.state import UserState

THOMPSON = "serving.exploration.policy=thompson"
PLACKETT_LUCE = ("serving.exploration.policy=plackett_luce", "serving.exploration.temperature=5.0")
POLICIES = ("plackett_luce", "thompson")


@pytest.fixture(scope="module")
def bundles(tiny_run, tiny_bundle):
    """The bundle of the tiny run by policy."""
    return {
        "greedy": Bundle.load(tiny_run / "bundle"),
        "plackett_luce": Bundle.load(tiny_bundle(*PLACKETT_LUCE)),
        "thompson": Bundle.load(tiny_bundle(THOMPSON)),
    }


@pytest.fixture(scope="module")
def recommenders(bundles):
    return {policy: Recommender(bundle) for policy, bundle in bundles.items()}


@pytest.fixture(scope="module")
def requests(tiny_run, bundles):
    """Thirty users as of the bundle, and one of whom nothing is known."""
    prepared, now = load_prepared(tiny_run / "prepared"), bundles["greedy"].data_until
    states = [state.as_of(now) for state in user_states(prepared, prepared.shards[0])][:30]
    return [
        Request(state, now, num_items=10 + number, request_id=f"r{number}", explained=True)
        for number, state in enumerate([*states, UserState("nobody")])
    ]


def ids(answer):
    return [item.item_id for item in answer.items]


def propensities(answer):
    return [item.propensity for item in answer.items]


def test_greedy_answers_have_no_propensity(recommenders, requests):
    for answer in recommenders["greedy"].recommend(requests):
        assert set(propensities(answer)) == {None}
        assert answer.items[0].explanation.exploration == {}
        assert "explore" not in answer.stage_seconds


def test_bundle_loads_the_process_only_where_orders_are_drawn_from_it(bundles):
    assert {policy: bundle.process is not None for policy, bundle in bundles.items()} == {
        "greedy": False,
        "plackett_luce": False,
        "thompson": True,
    }
    files = bundles["greedy"].manifest["files"]
    assert {name for name in files if name.startswith("exploration/")} == {
        "exploration/neural_process.onnx",
        "exploration/spread.json",
        "exploration/features.json",
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_drawn_answers_are_of_the_candidates_and_differ_from_the_greedy_ones(
    policy, recommenders, requests
):
    whole = [replace(request, num_items=60) for request in requests]
    drawn, greedy = (recommenders[name].recommend(whole) for name in (policy, "greedy"))
    assert [sorted(ids(answer)) for answer in drawn] == [sorted(ids(answer)) for answer in greedy]
    assert all(ids(one) != ids(other) for one, other in zip(drawn, greedy, strict=True))
    for answer in drawn:
        assert answer.degraded_stages == ()
        assert min(propensities(answer)) > 0
        assert propensities(answer)[-1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_same_request_gets_the_same_draws_alone_and_in_a_batch(policy, recommenders, requests):
    together = recommenders[policy].recommend(requests)
    for request, answer in zip(requests, together, strict=True):
        alone = recommenders[policy].recommend([request])[0]
        assert ids(alone) == ids(answer)
        np.testing.assert_allclose(propensities(alone), propensities(answer), rtol=1e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_follow_request_and_user(policy, recommenders, requests):
    def answer(**changes):
        return ids(recommenders[policy].recommend([replace(requests[-1], **changes)])[0])

    first = answer()
    assert answer(num_items=12) == first[:12]
    assert answer(request_id="another") != first
    assert answer(user=UserState("somebody")) != first
    later = requests[-1].now + 1
    assert answer(request_id="", now=later) == answer(request_id="", now=later)
    assert answer(request_id="", now=later) != answer(request_id="", now=later + 1)


def test_propensities_are_of_the_scores_that_were_drawn_from(recommenders, requests):
    whole = [replace(request, num_items=60) for request in requests]
    for answer in recommenders["plackett_luce"].recommend(whole):
        drawn_from = [item.explanation.exploration for item in answer.items]
        assert {each["temperature"] for each in drawn_from} == {5.0}
        score = np.array([each["score"] for each in drawn_from])
        expected = plackett_luce_propensities(score, 5.0, np.arange(len(score)))
        np.testing.assert_allclose(propensities(answer), expected, rtol=1e-6)
        seconds = [item.expected_watch_seconds for item in answer.items]
        np.testing.assert_allclose(score, seconds, rtol=1e-6)


def test_thompson_orders_by_what_it_drew(recommenders, requests):
    whole = [replace(request, num_items=60) for request in requests]
    for answer in recommenders["thompson"].recommend(whole):
        columns = {
            name: np.array([item.explanation.exploration[name] for item in answer.items])
            for name in ("mean_log_seconds", "deviation_log_seconds", "drawn_log_seconds")
        }
        mean, deviation, drawn = columns.values()
        assert (np.diff(drawn) <= 0).all()
        assert 0.5 < np.std((drawn - mean) / deviation) < 1.5
        expected = thompson_propensities(mean, deviation, np.arange(len(mean)))
        np.testing.assert_allclose(propensities(answer), expected, rtol=5e-3)


@pytest.mark.parametrize("policy", [(THOMPSON,), PLACKETT_LUCE], ids=["thompson", "plackett_luce"])
def test_much_known_users_get_the_greedy_order(policy, tiny_bundle, recommenders, requests):
    few = "serving.exploration.max_known_watches=0"
    recommender = Recommender(Bundle.load(tiny_bundle(*policy, few)))
    answers = recommender.recommend(requests)
    greedy = recommenders["greedy"].recommend(requests)
    is_drawn = [answer.items[0].propensity is not None for answer in answers]
    knows_nothing = [(request.user.events.watch_ms < 0).all() for request in requests]
    assert is_drawn == knows_nothing
    assert any(is_drawn) and not all(is_drawn)
    for answer, usual, drawn in zip(answers, greedy, is_drawn, strict=True):
        assert drawn or answer.items == usual.items


def fail(*arguments, **options):
    raise RuntimeError("dead")


def not_finite(prediction):
    return replace(prediction, deviation=prediction.deviation * np.nan)


@pytest.mark.parametrize("is_broken", [True, False], ids=["broken", "not finite"])
def test_broken_process_leaves_the_greedy_order(
    is_broken, bundles, recommenders, requests, monkeypatch
):
    recommender = Recommender(bundles["thompson"])
    genuine = type(bundles["thompson"].process).predict

    def predict(self, inputs):
        return fail() if is_broken else not_finite(genuine(self, inputs))

    monkeypatch.setattr(type(bundles["thompson"].process), "predict", predict)
    answers = recommender.recommend(requests)
    for answer, greedy in zip(answers, recommenders["greedy"].recommend(requests), strict=True):
        assert answer.degraded_stages == ("exploration",)
        assert answer.failures["exploration"]
        assert answer.items == greedy.items


def test_late_process_leaves_the_greedy_order(bundles, requests):
    recommender = Recommender(bundles["thompson"])
    recommender.recommend(requests[:1])
    remaining = iter([10.0, 10.0, 0.0])  # of the answer, of the ranker, of the process
    answer = recommender.recommend(requests[:1], time_remaining=lambda: next(remaining))[0]
    assert answer.degraded_stages == ("exploration",)
    assert answer.items[0].expected_watch_seconds is not None
    assert answer.items[0].propensity is None
    in_time = recommender.recommend(requests[:1], time_remaining=lambda: 10.0)[0]
    assert in_time.degraded_stages == ()


def test_broken_ranker_leaves_candidate_order_without_propensities(bundles, requests, monkeypatch):
    recommender = Recommender(bundles["plackett_luce"])
    monkeypatch.setattr(recommender._scoring, "score", fail)
    answer = recommender.recommend(requests[:1])[0]
    assert answer.degraded_stages == ("ranker",)
    assert set(propensities(answer)) == {None}


def test_process_of_other_inputs_is_refused(bundles):
    bundle = bundles["thompson"]
    stranger = copy(bundle.process)
    stranger.spec = replace(stranger.spec, history_length=stranger.spec.history_length + 1)
    with pytest.raises(BundleError, match="train both anew"):
        Ordering(replace(bundle, process=stranger))


def test_bundle_without_its_process_is_refused_by_name(tiny_bundle, tmp_path):
    directory = tmp_path / "bundle"
    shutil.copytree(tiny_bundle(THOMPSON), directory)
    (directory / "exploration" / "spread.json").unlink()
    with pytest.raises(BundleError, match=r"exploration/spread\.json.*missing"):
        Bundle.load(directory)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_drawn_from_no_candidates(policy, recommenders, requests):
    nothing = replace(requests[0], item_filter=ItemFilter(max_duration_ms=0))
    answer, other = recommenders[policy].recommend([nothing, requests[1]])
    alone = recommenders[policy].recommend([nothing])[0]
    assert answer.items == alone.items == ()
    assert answer.degraded_stages == other.degraded_stages == ()
    assert None not in propensities(other)


REFUSED = {
    "thompson without a process": ([THOMPSON, "exploration.enabled=false"], "exploration.enabled"),
    "no temperature": (PLACKETT_LUCE[:1], "temperature"),
    "temperature of another policy": ([THOMPSON, PLACKETT_LUCE[1]], "temperature"),
    "temperature 0": ([PLACKETT_LUCE[0], "serving.exploration.temperature=0.0"], "temperature"),
    "unknown policy": (["serving.exploration.policy=epsilon"], "policy"),
    "limit of the greedy order": (["serving.exploration.max_known_watches=3"], "no effect"),
    "exploration without a ranking net": (["ranking.enabled=false"], "ranking.enabled"),
}


@pytest.mark.parametrize(("overrides", "match"), REFUSED.values(), ids=REFUSED)
def test_settings_that_mean_nothing_are_refused(overrides, match, tiny_bundle):
    with pytest.raises(ConfigError, match=match):
        tiny_bundle(*overrides)
