"""The training loop: learns, stops, restores the best, resumes bit for bit, refuses nonsense."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from recsys.core.backends import to_numpy
from recsys.core.optimizers.adam import LinearSchedule
from recsys.core.random import stream
from recsys.core.training import CHECKPOINT, CURVES, train
from recsys.errors import TrainingError
from recsys.settings import TrainingSettings

NUM_IDS, WIDTH = 7, 3


class Net(keras.Model):
    """Dropout over a looked-up row: has sparse gradients and random state."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(
            NUM_IDS, WIDTH, embeddings_initializer=keras.initializers.RandomNormal(seed=3)
        )
        self.dropout = keras.layers.Dropout(0.2, seed=5)
        self.out = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(4))

    def call(self, ids, training=False):
        return self.out(self.dropout(self.table(ids), training=training))[:, 0]


def make_batches(epoch):
    rng = stream(0, "batches", epoch)
    for _ in range(6):
        ids = rng.integers(0, NUM_IDS, 16)
        label = (ids % 2).astype(np.float32)
        yield {"ids": ids, "label": label, "weight": np.ones(16, np.float32)}


def new_net():
    net = Net()
    net(np.zeros(1, np.int64))
    return net


def loss_of(net, training=True):
    def loss(batch):
        error = net(batch["ids"], training=training) - batch["label"]
        return ops.mean(ops.square(error)), {"largest_error": ops.max(ops.abs(error))}

    return loss


def error_of(net):
    ids = np.arange(NUM_IDS)
    return float(np.mean((to_numpy(net(ids)) - ids % 2) ** 2))


def run(net, directory, *, batches=make_batches, validate=None, loss=None, **changes):
    settings = {"batch_size": 16, "learning_rate": 0.02, "tensorboard": False, "max_epochs": 3}
    return train(
        net,
        loss or loss_of(net),
        batches,
        validate or (lambda: {"error": error_of(net)}),
        TrainingSettings(**(settings | changes)),
        monitor="error",
        larger_is_better=False,
        directory=directory,
        seed=0,
        description="net",
        num_batches=6,
    )


def weights_of(net):
    return np.concatenate([np.ravel(to_numpy(v.value)) for v in net.variables])


def test_train_learns_a_known_rule(tmp_path):
    net = new_net()
    history = run(net, tmp_path, max_epochs=30, patience=30)
    assert error_of(net) < 0.02
    assert history.stop == "max_epochs"
    assert len(history.epochs) == 30
    assert history.epochs[0].figures["loss"] > history.epochs[-1].figures["loss"]


def test_train_writes_curves_and_tensorboard_files(tmp_path):
    history = run(new_net(), tmp_path, tensorboard=True)
    curves = json.loads((tmp_path / CURVES).read_text())
    assert [epoch["metrics"] for epoch in curves["epochs"]] == [e.metrics for e in history.epochs]
    assert curves["epochs"][0]["figures"].keys() == {"loss", "largest_error"}
    assert curves["epochs"][0]["examples_per_second"] > 0
    assert list((tmp_path / "tensorboard").iterdir())


class Killed(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize("killed_at", [0, 3, 6, 11])
def test_train_resumes_bit_for_bit(tmp_path, monkeypatch, killed_at):
    # Looks after every step, so that each is a checkpoint.
    monkeypatch.setattr("recsys.core.training.LOOK_STEPS", 1)
    whole = new_net()
    expected = run(whole, tmp_path / "whole", checkpoint_seconds=1e-9)

    taken = iter(range(1000))

    def dying(epoch):
        for batch in make_batches(epoch):
            if next(taken) == killed_at:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        run(new_net(), tmp_path / "killed", batches=dying, checkpoint_seconds=1e-9)
    resumed = new_net()
    history = run(resumed, tmp_path / "killed", checkpoint_seconds=1e-9)
    np.testing.assert_array_equal(weights_of(whole), weights_of(resumed))
    assert [e.figures for e in history.epochs] == [e.figures for e in expected.epochs]


def test_train_finished_is_not_trained_again(tmp_path):
    net = new_net()
    run(net, tmp_path)

    def never(epoch):
        raise AssertionError

    again = new_net()
    history = run(again, tmp_path, batches=never)
    assert len(history.epochs) == 3
    for ours, theirs in zip(again.trainable_variables, net.trainable_variables, strict=True):
        np.testing.assert_array_equal(to_numpy(ours.value), to_numpy(theirs.value))


def test_train_restores_the_best_weights_and_stops_early(tmp_path):
    net = new_net()
    metrics = iter([3.0, 1.0, 2.0, 1.5, 0.0])
    seen = []

    def validate():
        seen.append([to_numpy(v.value) for v in net.trainable_variables])
        return {"error": next(metrics)}

    history = run(net, tmp_path, validate=validate, max_epochs=9, patience=2)
    assert (history.stop, history.best_epoch, len(history.epochs)) == ("patience", 1, 4)
    assert history.best_metrics == {"error": 1.0}
    for variable, best in zip(net.trainable_variables, seen[1], strict=True):
        np.testing.assert_array_equal(to_numpy(variable.value), best)


def test_train_stops_when_time_is_up(tmp_path):
    history = run(new_net(), tmp_path, max_epochs=1000, max_seconds=1e-6)
    assert (history.stop, len(history.epochs)) == ("max_seconds", 1)


def test_train_names_the_step_of_a_loss_that_is_not_finite(tmp_path):
    def poisoned(epoch):
        for number, batch in enumerate(make_batches(epoch), start=1):
            if number == 4:
                batch["label"][0] = np.nan
            yield batch

    with pytest.raises(TrainingError, match="epoch 1, step 4: the loss is nan.*learning_rate"):
        run(new_net(), tmp_path, batches=poisoned)


def test_train_refuses_a_validation_metric_that_is_not_finite(tmp_path):
    with pytest.raises(TrainingError, match="error = nan"):
        run(new_net(), tmp_path, validate=lambda: {"error": float("nan")})


def test_train_refuses_the_checkpoint_of_other_settings(tmp_path):
    run(new_net(), tmp_path)
    with pytest.raises(TrainingError, match="another seed, batch size, learning rate"):
        run(new_net(), tmp_path, learning_rate=0.5)


def test_train_refuses_a_broken_checkpoint(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="delete it to train from the start"):
        run(new_net(), tmp_path)


def test_train_refuses_the_checkpoint_of_another_net(tmp_path):
    run(new_net(), tmp_path)
    other = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    with pytest.raises(TrainingError, match="does not fit the net"):
        run(other, tmp_path)


def test_schedule_climbs_linearly_then_stays():
    rates = [float(LinearSchedule(0.4, 4, None)(step)) for step in range(6)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)
    assert float(LinearSchedule(0.4, 0, None)(0)) == pytest.approx(0.4)


def test_schedule_falls_to_zero_at_the_last_step():
    rates = [float(LinearSchedule(0.4, 0, 4)(step)) for step in range(6)]
    np.testing.assert_allclose(rates, [0.4, 0.3, 0.2, 0.1, 0.0, 0.0], atol=1e-7)
