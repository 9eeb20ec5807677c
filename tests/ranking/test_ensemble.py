"""Several ranking nets as one: their mean, exported; and heads solved for."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from pipelines.ranking_members import SOLVED, solve_heads
from recsys.core.backends import to_numpy
from recsys.core.onnx_session import load_session
from recsys.ranking.ensemble import RankingEnsemble
from recsys.ranking.export import export_ranker, one_request
from recsys.ranking.model import outputs_and_losses
from recsys.settings import RankingSettings
from tests.ranking.small_net import (
    NO_PARTS,
    first_candidates,
    heads_on,
    make_batch,
    make_model,
)

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exported from TensorFlow"
)
SMALL = NO_PARTS | {"heads": heads_on(expected=1, median=1, completion=1)}


@pytest.fixture(scope="module")
def ensemble():
    nets = [make_model(seed=seed, **SMALL) for seed in (3, 4, 5)]
    return RankingEnsemble([net for net, _ in nets]), nets[0][1]


def tensors(batch):
    return {name: ops.convert_to_tensor(values) for name, values in batch.items()}


def test_ensemble_says_the_mean_of_its_nets(ensemble):
    net, features = ensemble
    each = [to_numpy(member(tensors(features))) for member in net.members]
    assert np.abs(each[0] - each[1]).max() > 0.01
    np.testing.assert_allclose(to_numpy(net(tensors(features))), np.mean(each, axis=0), atol=1e-5)


def test_losses_of_an_ensemble_are_of_its_mean(ensemble):
    net, features = ensemble
    batch = tensors(make_batch(features))
    found = to_numpy(outputs_and_losses(net, batch))
    raw = to_numpy(net(batch))[:, 0]
    np.testing.assert_allclose(found[:, : raw.shape[1]], raw, atol=1e-5)
    losses = to_numpy(net.members[0].objective.row_losses(raw, batch))
    np.testing.assert_allclose(found[:, raw.shape[1] :], losses, atol=1e-5)


@needs_tensorflow
def test_exported_ensemble_is_one_graph_of_all_nets(ensemble, tmp_path):
    net, features = ensemble
    alone = first_candidates(features)
    path = tmp_path / "ranker.onnx"
    export_ranker(net, alone, path)
    session = load_session(path, num_threads=1)
    names = [value.name for value in session.get_inputs()]
    for inputs in (alone, one_request(alone)):
        (found,) = session.run(["heads"], {name: inputs[name] for name in names})
        np.testing.assert_allclose(found, to_numpy(net(tensors(inputs))), atol=1e-4)


class Repeated:
    """Batches that are the same in every epoch."""

    def __init__(self, batch):
        self.batch = batch

    def __call__(self, epoch):
        return [self.batch]


def solved(tmp_path, validate):
    net, features = make_model(**SMALL)
    batch = make_batch(features)
    outputs = net.head_outputs["expected"].kernel
    before = to_numpy(outputs.value)
    trunk = to_numpy(net.user_dense.kernel.value)
    solve_heads(net, Repeated(batch), validate, tmp_path, "l-bfgs")
    np.testing.assert_array_equal(to_numpy(net.user_dense.kernel.value), trunk)
    told = json.loads((tmp_path / SOLVED).read_text())
    return told, np.abs(to_numpy(outputs.value) - before).max()


def test_heads_are_solved_for_where_the_validation_is_better_by_it(tmp_path):
    losses = iter([2.0, 1.0])
    told, moved = solved(tmp_path, lambda: {"loss": next(losses)})
    assert told["is_kept"]
    assert told["loss"] < told["first_loss"]
    assert moved > 0.01


def test_heads_are_left_where_it_is_not(tmp_path):
    losses = iter([1.0, 1.0])
    told, moved = solved(tmp_path, lambda: {"loss": next(losses)})
    assert not told["is_kept"]
    assert moved == 0


def test_solver_and_refit_do_not_go_together():
    with pytest.raises(ValueError, match="refit leaves none"):
        RankingSettings(head_solver="cg", refit=True)
