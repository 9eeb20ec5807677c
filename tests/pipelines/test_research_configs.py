"""Every research configuration loads, and both of its nets can be built and take a step's loss."""

from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks.gradient_nets import new_ranking_net
from pipelines.config import load_settings
from recsys.candidates.model import CandidateModel, CandidateSizes
from recsys.core.backends import to_numpy
from recsys.core.optimizers.by_name import new_optimizer
from recsys.core.penalties import with_penalties

DIRECTORY = Path(__file__).parents[2] / "pipelines" / "configs" / "research"
CONFIGS = sorted(DIRECTORY.glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_nets_of_a_research_configuration_can_be_trained(path):
    settings = load_settings(path)
    assert settings.name == path.stem
    sizes = CandidateSizes(9, 2, dict.fromkeys(settings.candidates.context, 3))
    model = CandidateModel(settings.candidates, sizes, seed=0)
    batch = {
        "history": np.array([[1, 2, 3, 4]], np.int32),
        "positions": np.array([[2, 4]], np.int32),
        "context": np.ones((1, 2, len(settings.candidates.context)), np.int32),
        "age": np.full((1, 2), 30, np.float32),
        "reward": np.ones((1, 2), np.float32),
        "log_propensity": np.array([[np.nan, -1]], np.float32),
        "labels": np.array([[3, 5]], np.int32),
        "weight": np.ones((1, 2), np.float32),
    }
    assert np.isfinite(float(model.softmax_loss(batch)[0]))
    net, rows = new_ranking_net(settings.ranking, np.random.default_rng(0))
    loss, figures = with_penalties(net, net.loss_of)(rows)
    assert np.isfinite(float(to_numpy(keras.ops.convert_to_tensor(loss))))
    assert ("penalty" in figures) == (settings.ranking.layers.l2 > 0)
    for training in (settings.candidates.training, settings.ranking.training):
        new_optimizer(training, 10).build(model.trainable_variables)
