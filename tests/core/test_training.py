"""The training loop: learns, stops, restores the best, refuses nonsense."""

import json

import keras
import numpy as np
import pytest

from recsys.core.backends import to_numpy
from recsys.core.training import BAD_BATCH, CURVES
from recsys.errors import TrainingError
from tests.core.small_training import error_of, make_batches, new_net, run


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


def test_train_keeps_the_last_weights_where_asked_for(tmp_path):
    net = new_net()
    metrics = iter([3.0, 1.0, 2.0, 1.5])
    seen = []

    def validate():
        seen.append([to_numpy(v.value) for v in net.trainable_variables])
        return {"error": next(metrics)}

    settings = {"max_epochs": 4, "patience": 1, "keep": "last"}
    history = run(net, tmp_path, validate=validate, **settings)
    assert (history.stop, history.best_epoch, len(history.epochs)) == ("max_epochs", 3, 4)
    assert history.best_metrics == {"error": 1.5}
    for variable, last in zip(net.trainable_variables, seen[3], strict=True):
        np.testing.assert_array_equal(to_numpy(variable.value), last)


def test_train_stops_when_time_is_up(tmp_path):
    history = run(new_net(), tmp_path, max_epochs=1000, max_seconds=1e-6)
    assert (history.stop, len(history.epochs)) == ("max_seconds", 1)


def spoilt(factor, *, at):
    """Return batches like the usual ones, with labels multiplied from step `at` (from 1) on."""

    def batches(epoch):
        for number, batch in enumerate(make_batches(epoch), start=1 + 6 * epoch):
            if number >= at:
                batch["label"] = (batch["label"] + 1) * np.float32(factor)
            yield batch

    return batches


@pytest.mark.parametrize("step", [1, 4, 6])
def test_train_names_the_step_of_a_loss_that_is_not_finite(tmp_path, step):
    first, last = 16 * (step - 1) + 1, 16 * step
    message = (
        rf"epoch 2, step {step} \(examples {first} to {last} of the.*the loss is nan.*learning_r"
    )
    with pytest.raises(TrainingError, match=message):
        run(new_net(), tmp_path, batches=spoilt(np.nan, at=6 + step))


def test_train_keeps_the_batch_that_spoilt_it(tmp_path):
    with pytest.raises(TrainingError, match=BAD_BATCH):
        run(new_net(), tmp_path, batches=spoilt(np.nan, at=3))
    kept = np.load(tmp_path / "unfinished" / BAD_BATCH)
    expected = list(make_batches(0))[2]
    np.testing.assert_array_equal(kept["ids"], expected["ids"])
    assert np.isnan(kept["label"]).all()


def test_train_stops_at_the_step_where_losses_explode(tmp_path):
    # Nothing is learned, so that a mean is known: the first 16 steps lie below 1, and the loss of
    # one is worth 1/16 of the newest mean: (1 + 99^2) / 2 / 16 is far above 10.
    with pytest.raises(
        TrainingError, match=r"epoch 4, step 2 .*max_loss_ratio \(10\) times 0\.[3-7]"
    ):
        run(new_net(), tmp_path, batches=spoilt(100, at=20), max_epochs=9, learning_rate=1e-9)


def test_train_goes_on_where_losses_may_rise_that_far(tmp_path):
    batches = spoilt(100, at=20)
    history = run(new_net(), tmp_path, batches=batches, max_epochs=4, max_loss_ratio=1e9)
    assert len(history.epochs) == 4


def test_train_refuses_a_validation_metric_that_is_not_finite(tmp_path):
    with pytest.raises(TrainingError, match="error = nan"):
        run(new_net(), tmp_path, validate=lambda: {"error": float("nan")})


def test_train_refuses_the_checkpoint_of_other_settings(tmp_path):
    run(new_net(), tmp_path)
    with pytest.raises(TrainingError, match="another seed, batch size, optimizer, learning rate"):
        run(new_net(), tmp_path, learning_rate=0.5)


def test_train_refuses_the_checkpoint_of_another_net(tmp_path):
    run(new_net(), tmp_path)
    other = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    with pytest.raises(TrainingError, match="does not fit the net"):
        run(other, tmp_path)


class Enough(Exception):
    """What a caller's own hook raises."""


def test_train_calls_after_each_epoch_and_ends_with_what_that_raises(tmp_path):
    seen = []

    def after_epoch(epoch):
        seen.append(epoch)
        if len(seen) == 2:
            raise Enough

    with pytest.raises(Enough):
        run(new_net(), tmp_path, after_epoch=after_epoch)
    curves = json.loads((tmp_path / CURVES).read_text())
    assert [epoch["metrics"] for epoch in curves["epochs"]] == [epoch.metrics for epoch in seen]
    assert [epoch.epoch for epoch in seen] == [0, 1]


def test_train_gone_on_with_calls_for_the_epochs_before_too(tmp_path):
    run(new_net(), tmp_path, max_epochs=2)
    seen = []
    history = run(new_net(), tmp_path, max_epochs=3, after_epoch=seen.append)
    assert seen == history.epochs
    assert len(seen) == 3
