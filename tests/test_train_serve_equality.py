"""The same moment through both paths: a training row, and a request built from the user's state."""

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.data.examples import TEST
from recsys.data.prepared import load_prepared
from recsys.data.user_states import user_states
from recsys.ranking.ranker import Ranker
from recsys.ranking.rows import rows_by_shard
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.retrieval import Candidates
from recsys.user_views import view_users

NUM_IMPRESSIONS = 80
CONTEXT = ("surface", "device", "country")


@pytest.fixture(scope="module")
def both(tiny_run):
    """Features of test impressions: of the training path and of the served one, row by row."""
    prepared = load_prepared(tiny_run / "prepared")
    bundle = Bundle.load(tiny_run / "bundle")
    recommender = Recommender(bundle)
    shard = prepared.shards[0]
    examples = shard.ranking
    spec = bundle.ranker.spec
    trained = next(rows_by_shard(prepared, bundle.item_features, spec, {TEST})).features
    chosen = np.linspace(0, len(trained["history"]) - 1, NUM_IMPRESSIONS).astype(int)
    rows = np.flatnonzero(examples.split == TEST)[chosen]
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
        Candidates(np.array([examples.item[row], 0, 1], np.int32), np.ones(3), "candidate_net", {})
        for row in rows
    ]
    users = view_users(requests, bundle)
    served = recommender._scoring._features(users, candidates, np.arange(len(rows)))
    return {name: values[chosen] for name, values in trained.items()}, served, spec


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
    counted = ("item_impressions", "item_watch_rate", "item_mean", "item_click", "channel_")
    columns = [n for n, name in enumerate(spec.item_numeric) if not name.startswith(counted)]
    assert len(columns) > 8
    np.testing.assert_array_equal(
        served["candidate_numeric"][:, 0, columns], trained["candidate_numeric"][:, 0, columns]
    )
