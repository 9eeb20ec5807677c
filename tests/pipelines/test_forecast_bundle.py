"""A bundle with a forecast in place of the counts, from the log to an answer."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.config import load_settings
from pipelines.paths import RunPaths
from pipelines.run import run_one
from pipelines.train_candidates import served_crowd_of
from recsys.bundle import Bundle
from recsys.data.prepared import load_prepared
from recsys.errors import ConfigError
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.state import UserState
from recsys.user_views import view_users

CHANGES = [
    "candidates.forecast_minutes=1440",
    "candidates.refresh_minutes=1",
    "candidates.training.max_epochs=1",
    "ranking.enabled=false",
    "exploration.enabled=false",
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    out = tmp_path_factory.mktemp("forecast")
    settings = load_settings(Path(__file__).parents[1] / "tiny.toml", CHANGES)
    for step in ("prepared", "candidates", "index", "bundle"):
        run_one(step, settings, out)
    return RunPaths(out)


@pytest.fixture(scope="module")
def bundle(paths):
    return Bundle.load(paths.bundle)


def test_the_last_columns_are_the_forecast_as_of_the_bundle(paths, bundle):
    log = load_prepared(paths.prepared)
    crowd = served_crowd_of(log, bundle.settings.candidates, learned_until=log.data_until)
    expected = crowd.popularity.columns(log.data_until)
    found = bundle.item_vectors[:, -3:]
    assert len(np.unique(expected)) > 30
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-3)
    others = found[len(expected) :]
    np.testing.assert_allclose(others, np.tile(expected.min(axis=0), (len(others), 1)), rtol=1e-3)


@pytest.mark.parametrize(("hours", "part"), [(0, 0), (3, 1), (20, 2)])
def test_a_user_of_whom_nothing_is_known_is_given_what_is_forecast(bundle, hours, part):
    now = bundle.data_until + hours * 3_600_000_000
    request = Request(user=UserState("nobody"), now=now, num_items=5)
    age = view_users([request], bundle).tower_inputs["minutes_since_forecast"]
    assert age.tolist() == [60 * hours]
    answer = Recommender(bundle).recommend([request])[0]
    assert not answer.degraded_stages
    forecast = bundle.item_vectors[:, part - 3]
    rows = bundle.catalogue.rows(np.array([item.item_id for item in answer.items]))
    assert (forecast[rows] > np.median(forecast)).all()


def test_a_forecast_without_negatives_is_refused(paths):
    log = load_prepared(paths.prepared)
    settings = load_settings(Path(__file__).parents[1] / "tiny.toml", CHANGES).candidates
    full = settings.model_copy(update={"loss": "full_softmax"})
    with pytest.raises(ConfigError, match="sampled_softmax"):
        served_crowd_of(log, full, learned_until=log.data_until)
