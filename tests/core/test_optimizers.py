"""Optimizers, schedules, limits and averages by setting, against their papers' equations."""

import keras
import numpy as np
import pytest

from recsys.core import training
from recsys.core.backends import compile_step, gather_rows, to_numpy
from recsys.core.checkpoint import read_variables
from recsys.core.optimizers.by_name import new_optimizer
from recsys.core.optimizers.clipping import Clipped
from recsys.core.optimizers.schedules import new_schedule
from recsys.settings import TrainingSettings
from tests.core.small_training import Net, new_net, run, weights_of
from tests.core.test_resume import Killed, assert_same_end, kill, struck

RATE = 0.1
GRADIENTS = [np.array([1.0, -2.0]), np.array([0.5, 1.0]), np.array([-0.3, 0.2])]
START = np.array([0.4, -0.7])


def rates(num_steps, num_batches, **changes):
    settings = TrainingSettings(learning_rate=0.4, **changes)
    schedule = new_schedule(settings, 0.4, num_batches)
    return [float(schedule(step)) for step in range(num_steps)]


def test_warm_up_climbs_linearly_then_stays():
    found = rates(6, None, warmup_steps=4)
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)
    assert rates(1, None)[0] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("decay", "shares"),
    [
        ("linear", [1, 0.75, 0.5, 0.25, 0, 0]),
        ("cosine", [(1 + np.cos(np.pi * step / 4)) / 2 for step in (0, 1, 2, 3, 4, 4)]),
        ("exponential", [0.01 ** (step / 4) for step in range(6)]),
    ],
)
def test_rate_falls_until_the_last_step(decay, shares):
    found = rates(6, 2, decay=decay, max_epochs=2)
    np.testing.assert_allclose(found, 0.4 * np.array(shares), rtol=1e-5, atol=1e-7)


def test_warm_up_and_decay_go_together():
    found = rates(4, 4, decay="linear", max_epochs=1, warmup_steps=2)
    np.testing.assert_allclose(found, [0.2, 0.3, 0.2, 0.1], rtol=1e-5)


def test_bundles_of_before_say_linear_decay():
    assert TrainingSettings.model_validate({"linear_decay": True}).decay == "linear"
    assert TrainingSettings.model_validate({"linear_decay": False}).decay == "none"


def sgd(steps):
    return START - RATE * sum(steps)


def momentum(steps, *, nesterov=False):
    weights, velocity = START.copy(), np.zeros(2)
    for gradient in steps:
        velocity = 0.9 * velocity - RATE * gradient
        weights = weights + (0.9 * velocity - RATE * gradient if nesterov else velocity)
    return weights


def adagrad(steps):
    weights, squares = START.copy(), np.full(2, 1e-8)
    for gradient in steps:
        squares = squares + gradient**2
        weights = weights - RATE * gradient / np.sqrt(squares)
    return weights


def rmsprop(steps):
    weights, squares = START.copy(), np.zeros(2)
    for gradient in steps:
        squares = 0.9 * squares + 0.1 * gradient**2
        weights = weights - RATE * gradient / np.sqrt(squares)
    return weights


def adam(steps, *, decay=0.0):
    weights, mean, square = START.copy(), np.zeros(2), np.zeros(2)
    for number, gradient in enumerate(steps, start=1):
        weights = weights - RATE * decay * weights
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        root = np.sqrt(square / (1 - 0.999**number))
        weights = weights - RATE * mean / (1 - 0.9**number) / root
    return weights


def adadelta(steps):
    weights, square, moved = START.copy(), np.zeros(2), np.zeros(2)
    for gradient in steps:
        square = 0.95 * square + 0.05 * gradient**2
        change = np.sqrt(moved + 1e-7) / np.sqrt(square + 1e-7) * gradient
        moved = 0.95 * moved + 0.05 * change**2
        weights = weights - RATE * change
    return weights


REFERENCES = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": lambda steps: momentum(steps, nesterov=True),
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": lambda steps: adam(steps, decay=0.3),
    "adadelta": adadelta,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_optimizer_by_name_takes_the_steps_of_its_paper(name):
    variable = keras.Variable(START.astype(np.float32))
    decay = 0.3 if name == "adamw" else 0.0
    settings = TrainingSettings(optimizer=name, learning_rate=RATE, weight_decay=decay)
    optimizer = new_optimizer(settings, None)
    optimizer.build([variable])
    for gradient in GRADIENTS:
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))], [variable])
    expected = REFERENCES[name](GRADIENTS)
    np.testing.assert_allclose(to_numpy(variable.value), expected, rtol=1e-4, atol=1e-6)


def test_adamw_without_a_decay_is_refused():
    with pytest.raises(ValueError, match="weight_decay, got none"):
        TrainingSettings(optimizer="adamw")


def test_averages_of_tables_with_rules_of_rows_are_refused():
    with pytest.raises(ValueError, match="table_optimizer = 'adam', got 'lazy_adam'"):
        TrainingSettings(average_momentum=0.9, table_optimizer="lazy_adam")


class Seen:
    """Stands for an optimizer: keeps the gradients that it is given."""

    def apply(self, gradients, variables):
        self.gradients = gradients


def clipped(gradients, **limits):
    seen = Seen()
    whole = {"largest_norm": None, "largest_value": None} | limits
    Clipped(seen, **whole).apply(
        [None if each is None else keras.ops.convert_to_tensor(each) for each in gradients], []
    )
    return seen.gradients


def test_gradients_are_cut_to_a_common_length():
    long = clipped([np.array([3.0]), None, np.array([0.0, 4.0])], largest_norm=2.5)
    np.testing.assert_allclose(to_numpy(long[0]), [1.5], rtol=1e-6)
    assert long[1] is None
    np.testing.assert_allclose(to_numpy(long[2]), [0.0, 2.0], rtol=1e-6)
    short = clipped([np.array([3.0]), np.array([0.0, 4.0])], largest_norm=5.1)
    np.testing.assert_allclose(to_numpy(short[1]), [0.0, 4.0])


def test_elements_are_cut_before_the_length():
    found = clipped([np.array([30.0, -40.0])], largest_value=3.0, largest_norm=1.0)
    np.testing.assert_allclose(to_numpy(found[0]), np.array([1, -1]) / np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize("table_optimizer", ["adam", "lazy_adam"])
def test_length_of_a_table_is_of_the_sums_of_its_rows(table_optimizer):
    """Two slices of +1 and -1 on one row are no gradient at all."""
    model = keras.Sequential([keras.layers.Input((2,), dtype="int32")])
    table = model.add_weight(shape=(9, 1), initializer="zeros", name="table")
    settings = TrainingSettings(clip_norm=1.0, table_optimizer=table_optimizer, learning_rate=RATE)
    optimizer = new_optimizer(settings, None)
    optimizer.build([table])

    def loss(batch):
        return keras.ops.sum(gather_rows(table, batch["ids"])[:, 0] * batch["slope"]), {}

    step = compile_step(model, loss, optimizer, has_norm=True)
    ids = np.array([2, 2, 5], np.int32)
    _, figures = step({"ids": ids, "slope": np.array([100.0, -100.0, 0.25], np.float32)})
    assert float(figures["gradient_norm"]) == pytest.approx(0.25)
    np.testing.assert_allclose(to_numpy(table.value)[[2, 5], 0], [0, -RATE], atol=1e-4)


RESUMED = [
    {"optimizer": "momentum", "decay": "cosine", "warmup_steps": 3, "clip_norm": 0.1},
    {"optimizer": "adadelta", "average_momentum": 0.8, "learning_rate": 1.0},
    {"optimizer": "rmsprop", "decay": "exponential", "clip_value": 0.05, "weight_decay": 0.01},
    {"optimizer": "adagrad", "decay": "linear", "average_momentum": 0.5, "clip_norm": 0.5},
    {"table_optimizer": "lazy_adam", "clip_norm": 0.1, "tensorboard_details": True},
]


def fresh(directory, name):
    """Return a new folder in a directory."""
    (directory / name).mkdir()
    return directory / name


@pytest.mark.parametrize("changes", RESUMED)
def test_killed_training_of_any_setting_ends_as_if_it_was_not(tmp_path, changes):
    whole, killed = fresh(tmp_path, "whole"), fresh(tmp_path, "killed")
    run(new_net(), whole, **changes)
    with pytest.raises(Killed):
        run(new_net(), killed, batches=struck(kill, 8), checkpoint_steps=1, **changes)
    run(new_net(), killed, checkpoint_steps=1, **changes)
    assert_same_end(killed, whole)


@pytest.mark.parametrize("changes", RESUMED[:2])
def test_two_trainings_of_one_seed_have_the_same_bits(tmp_path, changes):
    ends = []
    for name in ("first", "second"):
        net = new_net()
        run(net, fresh(tmp_path, name), **changes)
        ends.append(weights_of(net))
    np.testing.assert_array_equal(*ends)


def noted_steps(monkeypatch, net):
    """Return a list that gets the weights of a net after each step of its training."""
    steps, look_at = [], training._Run._look_at

    def note(self, *arguments):
        steps.append([each.copy() for each in read_variables(net.trainable_variables)])
        return look_at(self, *arguments)

    monkeypatch.setattr(training._Run, "_look_at", note)
    monkeypatch.setattr("recsys.core.training.LOOK_STEPS", 1)
    return steps


def test_what_is_validated_and_kept_is_the_average_of_the_weights(tmp_path, monkeypatch):
    net, validated = new_net(), []

    def validate():
        validated.append(list(read_variables(net.trainable_variables)))
        return {"error": -float(len(validated))}

    with monkeypatch.context() as patch:
        steps = noted_steps(patch, net)
        averaged = fresh(tmp_path, "averaged")
        run(net, averaged, validate=validate, average_momentum=0.75, max_epochs=2)
    average = steps[0]
    for weights in steps[1:]:
        average = [0.75 * old + 0.25 * new for old, new in zip(average, weights, strict=True)]
    for variable, seen, expected in zip(
        net.trainable_variables, validated[-1], average, strict=True
    ):
        np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(to_numpy(variable.value), seen)
    # The training itself goes on from the weights, as if there were no average of them.
    plain = new_net()
    with monkeypatch.context() as patch:
        plain_steps = noted_steps(patch, plain)
        run(plain, fresh(tmp_path, "plain"), max_epochs=2)
    for found, expected in zip(steps, plain_steps, strict=True):
        for values, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-7)


class Normalised(Net):
    """The net with its rows normalised by the batch."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization(momentum=0.5)

    def call(self, ids, training=False):
        return self.out(self.norm(self.table(ids), training=training))[:, 0]


def test_means_of_batches_are_kept_with_the_best_weights(tmp_path):
    net = Normalised()
    net(np.zeros(1, np.int64))
    errors, means = iter([1.0, 2.0, 3.0]), []

    def validate():
        means.append(to_numpy(net.norm.moving_mean.value))
        return {"error": next(errors)}

    run(net, tmp_path, validate=validate)
    assert not np.array_equal(means[0], means[2])
    np.testing.assert_array_equal(to_numpy(net.norm.moving_mean.value), means[0])


def test_penalties_are_part_of_the_loss_and_reported(tmp_path):
    net = new_net()
    net.out.kernel.regularizer = keras.regularizers.L2(0.5)
    figures = run(net, fresh(tmp_path, "penalised"), max_epochs=1).epochs[0].figures
    plain = run(new_net(), fresh(tmp_path, "plain"), max_epochs=1).epochs[0].figures
    assert figures["penalty"] > 0
    assert "penalty" not in plain
    assert figures["loss"] > plain["loss"] + figures["penalty"] / 2
