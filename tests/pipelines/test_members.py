"""Two nets side by side, from the log to an answer."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.config import load_settings
from pipelines.paths import RunPaths
from pipelines.run import run_one
from recsys.bundle import Bundle
from recsys.recommender import Recommender
from recsys.requests import Request
from recsys.state import UserState

CHANGES = [
    'candidates.members=[{encoder="attention", windows=[3]}, {}]',
    "candidates.popularity_minutes=[]",
    "candidates.successor_windows=[]",
    "candidates.training.max_epochs=1",
    "ranking.enabled=false",
    "exploration.enabled=false",
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    out = tmp_path_factory.mktemp("members")
    settings = load_settings(Path(__file__).parents[1] / "tiny.toml", CHANGES)
    for step in ("prepared", "candidates", "index", "bundle"):
        run_one(step, settings, out)
    paths = RunPaths(out)
    names = sorted(path.name for path in paths.candidates.glob("*.onnx"))
    assert names == ["user_tower.onnx", "user_tower_2.onnx"]
    assert (paths.candidates / "weights_2.npz").exists()
    return Bundle.load(paths.bundle)


def test_both_nets_have_a_say_in_the_served_scores(bundle):
    width = bundle.settings.candidates.embedding_width
    assert bundle.item_vectors.shape[1] == 2 * width
    inputs = {
        "history": np.array([[1, 2, 0]], np.int32),
        "history_length": np.array([2], np.int32),
        "context": np.zeros((1, 2), np.int32),
        "age": np.array([30], np.float32),
        "query_time": np.zeros((1, 4), np.float32),
        "minutes_since_watch": np.array([7], np.float32),
        "search_tokens": np.zeros((1, 50), np.int32),
    }
    vectors = bundle.user_tower.vectors(inputs)[0, 0]
    assert (np.abs(vectors).reshape(2, width).max(axis=1) > 0).all()


def test_a_user_is_answered(bundle):
    request = Request(user=UserState("nobody"), now=bundle.data_until, num_items=5)
    answer = Recommender(bundle).recommend([request])[0]
    assert len(answer.items) == 5
    assert not answer.degraded_stages
