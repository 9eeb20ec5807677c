"""The same moment through both paths: a training row, and a request built from the user's state."""

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.data.examples import TEST
from recsys.data.prepared import load_prepared
from recsys.data.user_states import user_states
from recsys.exploration.features import target_numeric
from recsys.exploration.predictor import Predictor
from recsys.exploration.rows import exploration_rows
from recsys.ranking.ranker import Ranker
from recsys.ranking.rows import rows_by_shard
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval import Candidates
from recsys.user_views import view_users

NUM_IMPRESSIONS = 80
CONTEXT_LENGTH = 48
COUNTED = ("item_impressions", "item_watch_rate", "item_mean", "item_click", "channel_")
"""Numbers of an item that a request has as of now, whatever its moment."""
CONTEXT = ("surface", "device", "country")


@pytest.fixture(scope="module")
def asked(tiny_run):
    """Test impressions of the first shard: which they are, and as requests of that moment."""
    prepared = load_prepared(tiny_run / "prepared")
    bundle = Bundle.load(tiny_run / "bundle")
    shard = prepared.shards[0]
    examples = shard.ranking
    every = np.flatnonzero(examples.split == TEST)
    chosen = np.linspace(0, len(every) - 1, NUM_IMPRESSIONS).astype(int)
    rows = every[chosen]
    states = list(user_states(prepared, shard))
    requests = [
        Request(
            states[examples.user[row]],
            now=int(examples.moment[row]),
            context=context_of(prepared, examples, row),
        )
        for row in rows
    ]
    candidates = [
        Candidates(np.array([examples.item[row], 0, 1], np.int32), np.ones(3), {}, {})
        for row in rows
    ]
    return prepared, bundle, chosen, requests, candidates


@pytest.fixture(scope="module")
def both(asked):
    """Features of test impressions: of the training path and of the served one, row by row."""
    prepared, bundle, chosen, requests, candidates = asked
    spec = bundle.ranker.spec
    trained = next(rows_by_shard(prepared, bundle.item_features, spec, {TEST})).features
    users = view_users(requests, bundle)
    scoring = Recommender(bundle)._scoring
    served = scoring._features(users, candidates, np.arange(len(requests)))
    return {name: values[chosen] for name, values in trained.items()}, served, spec


@pytest.fixture(scope="module")
def process_both(asked, tiny_run, tmp_path_factory):
    """Inputs of the neural process: of the training path, and of each request alone."""
    prepared, bundle, chosen, requests, candidates = asked
    spec, scratch = bundle.ranker.spec, tmp_path_factory.mktemp("rows")
    rows = exploration_rows(prepared, bundle.item_features, spec, {TEST}, CONTEXT_LENGTH, scratch)
    recommender, users = Recommender(bundle), view_users(requests, bundle)
    scored = recommender._scoring.score(
        users, candidates, explained=False, inputs_kept=np.ones(len(requests), bool)
    )
    served = [
        recommender._ordering._inputs(users, position, each, spec)
        for position, each in enumerate(scored)
    ]
    joined = {name: np.concatenate([each[name] for each in served]) for name in served[0]}
    return rows.inputs(chosen, rows.context[chosen]), joined, spec


def context_of(prepared, examples, row):
    codes = {name: int(examples.codes[name][row]) for name in CONTEXT}
    return {
        name: prepared.vocabularies[name].ids(np.array([code - 1]))[0]
        for name, code in codes.items()
        if code
    }


def test_enough_impressions_with_a_past_are_compared(both):
    trained, _, _ = both
    assert len(trained["history"]) >= 40
    assert (trained["history"] > 0).any(axis=1).mean() > 0.3


RECENT = ["recent_item", "recent_categorical", "recent_bags", "recent_outcome", "recent_age"]


@pytest.mark.parametrize("name", ["user_categorical", "user_numeric", "history", *RECENT])
def test_user_features_are_equal_bit_by_bit(both, name):
    trained, served, _ = both
    np.testing.assert_array_equal(served[name], trained[name])


def test_newest_events_differ_and_some_outcomes_are_pending(both):
    trained, _, spec = both
    outcome = trained["recent_outcome"]
    assert outcome.shape == (NUM_IMPRESSIONS, spec.recent_length)
    assert (outcome == 1).any() and (outcome > 1).mean() > 0.3
    decayed = [n for n, name in enumerate(spec.user_numeric) if "_last_" in name]
    values = trained["user_numeric"][:, decayed]
    assert len(decayed) == 8
    assert min(len(np.unique(column[~np.isnan(column)])) for column in values.T) > 10


def test_bias_columns_are_known_to_the_log_and_not_to_a_request(both):
    trained, served, _ = both
    assert (trained["bias_categorical"] > 0).mean() > 0.9
    assert len(np.unique(trained["bias_categorical"])) > 5
    assert served["bias_categorical"].shape == trained["bias_categorical"].shape
    assert not served["bias_categorical"].any()


@pytest.mark.parametrize("name", ["candidate_item", "candidate_categorical", "candidate_bags"])
def test_item_codes_are_equal_bit_by_bit(both, name):
    trained, served, _ = both
    np.testing.assert_array_equal(served[name][:, :1], trained[name])


def test_calibration_factors_are_equal_bit_by_bit(both, tiny_run):
    trained, served, _ = both
    calibration = Ranker.load(tiny_run / "bundle" / "ranking").calibration
    factors = calibration.factors_of(served)
    assert len(np.unique(factors)) > 10
    np.testing.assert_array_equal(factors[:, :1], calibration.factors_of(trained))


def test_candidate_numbers_are_equal_bit_by_bit_but_for_live_counters(both):
    trained, served, spec = both
    columns = [n for n, name in enumerate(spec.item_numeric) if not name.startswith(COUNTED)]
    assert len(columns) > 8
    np.testing.assert_array_equal(
        served["candidate_numeric"][:, 0, columns], trained["candidate_numeric"][:, 0, columns]
    )


def test_contexts_are_short_long_and_full(process_both):
    sizes = process_both[0]["context_known"].sum(axis=1)
    assert sizes.min() == 0 and sizes.max() == CONTEXT_LENGTH
    assert len(np.unique(sizes)) > 4


PROCESS_INPUTS = [
    "request",
    *(f"target_{name}" for name in ("item", "categorical", "bags", "numeric")),
    *(f"context_{name}" for name in ("item", "categorical", "bags", "numeric")),
    *(f"context_{name}" for name in ("outcome", "is_watch", "known")),
]


@pytest.mark.parametrize("name", PROCESS_INPUTS)
def test_process_inputs_are_equal_bit_by_bit_but_for_live_counters(process_both, name):
    trained, served, spec = process_both
    assert sorted(trained) == sorted(PROCESS_INPUTS)
    found = served[name][:, :1] if name.startswith("target_") else served[name]
    expected = trained[name]
    assert expected.dtype == found.dtype
    if name == "target_numeric":
        still = [not each.startswith(COUNTED) for each in target_numeric(spec)]
        assert sum(still) == 2
        found, expected = found[..., still], expected[..., still]
    np.testing.assert_array_equal(found, expected)


def test_process_says_the_same_of_both(process_both, tiny_run):
    trained, served, spec = process_both
    process = Predictor.load(tiny_run / "exploration")
    counted = [each.startswith(COUNTED) for each in target_numeric(spec)]
    served = served | {"target_numeric": served["target_numeric"].copy()}
    served["target_numeric"][:, :1, counted] = trained["target_numeric"][..., counted]
    expected = process.predict(trained)
    assert np.ptp(expected.mean) > 0.1
    for row in range(NUM_IMPRESSIONS):
        alone = process.predict({name: values[row : row + 1] for name, values in served.items()})
        for name, values in vars(alone).items():
            np.testing.assert_allclose(
                values[0, 0], getattr(expected, name)[row, 0], rtol=1e-5, atol=1e-5, err_msg=name
            )
