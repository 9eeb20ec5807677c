"""Losses against their equations in NumPy, on raw outputs that no net has made."""

import keras
import numpy as np
import pytest
from keras import ops

from recsys.core.backends import to_numpy
from recsys.ranking.heads import Heads
from recsys.ranking.objective import Objective, in_units, log_mean_of_curve, pairwise_loss
from tests.ranking.small_net import WEIGHTS, heads_on, make_labels
from tests.ranking.small_world import SETTINGS

ROWS = 40
UNIT = 4.0
THRESHOLDS = np.array([0.5, 1.5, 4.0])
"""In units."""
EVERY = {"completion": "completed", "click": "clicked", "like": "liked"}


def make_objective(weights=WEIGHTS, **changes):
    """Return an objective without the penalty and pairs, unless they are asked for."""
    off = {"mean_correction_penalty": 0.0, "pairwise_weight": 0.0}
    settings = SETTINGS.model_copy(update=off | {"heads": heads_on(**weights)} | changes)
    heads = Heads(tuple(settings.heads.on()), UNIT, tuple(UNIT * THRESHOLDS), (), ())
    return Objective(settings, heads)


@pytest.fixture
def raw():
    return np.random.default_rng(1).normal(size=(ROWS, 9)).astype(np.float32)


@pytest.fixture
def batch():
    return make_labels(np.random.default_rng(2), ROWS)


def cross_entropy(logits, labels):
    return np.logaddexp(0, logits) - labels * logits


def reference(raw, batch):
    """Return the loss of each head: float64 [B] by name."""
    expected, median, completion, click, like, percentile, *curve = raw.T.astype(np.float64)
    time = batch["watch_time"].astype(np.float64)
    above = [cross_entropy(z, time > t) for z, t in zip(curve, THRESHOLDS, strict=True)]
    return {
        "expected": (1 + time) * np.logaddexp(0, expected) - time * expected,
        "median": np.abs(np.logaddexp(0, median) - time),
        "completion": cross_entropy(completion, batch["completed"]) * batch["completed_weight"],
        "click": cross_entropy(click, batch["clicked"]) * batch["clicked_weight"],
        "like": cross_entropy(like, batch["liked"]) * batch["liked_weight"],
        "percentile": cross_entropy(percentile, batch["percentile"]),
        "curve": np.mean(above, axis=0),
    }


def loss_of(objective, raw, batch):
    total, figures = objective(ops.convert_to_tensor(raw), batch)
    return float(total), {name: float(value) for name, value in figures.items()}


def mean_of(values, batch):
    return values @ batch["weight"] / batch["weight"].sum()


def test_loss_of_every_head_equals_its_equation(raw, batch):
    found = to_numpy(make_objective().row_losses(raw, batch))
    expected = reference(raw, batch)
    assert list(expected) == list(WEIGHTS)
    np.testing.assert_allclose(found, np.stack(list(expected.values()), axis=1), rtol=1e-4)


def test_sum_weighs_heads_and_leaves_padding_out(raw, batch):
    total, figures = loss_of(make_objective(), raw, batch)
    means = {name: mean_of(values, batch) for name, values in reference(raw, batch).items()}
    assert figures == pytest.approx({f"{k}_loss": v for k, v in means.items()}, rel=1e-5)
    assert total == pytest.approx(sum(WEIGHTS[name] * means[name] for name in WEIGHTS), rel=1e-5)
    padding = batch["weight"] == 0
    assert loss_of(make_objective(), np.where(padding[:, None], 9, raw), batch)[0] == total


def test_heads_that_are_off_have_no_loss(raw, batch):
    weights = {"expected": 2.0, "completion": 1.0, "median": 3.0}
    total, figures = loss_of(make_objective(weights), raw[:, [0, 1, 2]], batch)
    means = {name: mean_of(reference(raw, batch)[name], batch) for name in weights}
    assert figures == pytest.approx({f"{k}_loss": v for k, v in means.items()}, rel=1e-5)
    assert total == pytest.approx(sum(weights[name] * means[name] for name in weights), rel=1e-5)


@pytest.mark.parametrize("label", ["completed", "clicked", "liked"])
def test_unknown_labels_add_nothing(raw, batch, label):
    unknown = batch[f"{label}_weight"] == 0
    assert unknown[: ROWS - 4].any()
    flipped = np.where(unknown, 1 - batch[label], batch[label])
    objective = make_objective(pairwise_weight=1.0)
    assert loss_of(objective, raw, batch | {label: flipped}) == loss_of(objective, raw, batch)
    nothing = batch | {f"{label}_weight": np.zeros(ROWS, np.float32)}
    head = next(head for head, name in EVERY.items() if name == label)
    assert loss_of(objective, raw, nothing)[1][f"{head}_loss"] == 0


def test_longest_and_shortest_watches_have_finite_losses_for_any_output(batch):
    batch = batch | {"watch_time": np.linspace(0, 1e4, ROWS).astype(np.float32)}
    for output in (-1e4, 1e4):
        raw = np.full((ROWS, 9), output, np.float32)
        total, figures = loss_of(make_objective(mean_correction_penalty=1.0), raw, batch)
        assert np.isfinite([total, *figures.values()]).all()


def probabilities(*values):
    values = np.array([values], np.float32)
    return np.log(values / (1 - values))


def test_mean_of_a_curve_by_hand():
    found = to_numpy(log_mean_of_curve(probabilities(0.8, 0.5, 0.2), np.float32(THRESHOLDS)))
    # From 1 to 0.8 in half a unit, to 0.5 in one, to 0.2 in 2.5.
    np.testing.assert_allclose(np.exp(found), [0.45 + 0.65 + 0.875], rtol=1e-5)


def test_mean_of_a_curve_that_is_nothing_lies_below_the_first_threshold():
    found = to_numpy(log_mean_of_curve(np.full((1, 3), -1e4, np.float32), np.float32(THRESHOLDS)))
    assert np.exp(found).item() == pytest.approx(THRESHOLDS[0] / 2)


def test_thresholds_are_in_units_of_the_mean():
    heads = Heads(("expected", "completion", "curve"), 4.0, (2.0, 6.0), (), ())
    np.testing.assert_array_equal(in_units(heads), np.float32([0.5, 1.5]))


def penalty_of(expected, curve, weight=0.5, batch=None):
    """Return what a penalty of that weight adds for rows of one curve each."""
    weights = {"expected": 1.0, "completion": 1.0, "curve": 1.0}
    raw = np.concatenate([np.reshape(expected, (-1, 1)), 0 * curve[:, :1], curve], axis=1)
    batch = batch or make_labels(np.random.default_rng(0), 4 + len(raw))
    batch = {name: values[: len(raw)] for name, values in batch.items()}
    objectives = (make_objective(weights, mean_correction_penalty=value) for value in (weight, 0.0))
    with_it, without = (
        loss_of(objective, raw.astype(np.float32), batch) for objective in objectives
    )
    assert with_it[1] == without[1]
    return with_it[0] - without[0]


def test_expected_seconds_at_the_mean_of_the_curve_cost_nothing():
    curve = probabilities(0.8, 0.5, 0.2)
    mean = to_numpy(log_mean_of_curve(curve, np.float32(THRESHOLDS)))
    assert penalty_of(mean, curve) == 0


def test_correction_of_all_rows_alike_costs_nothing():
    curve = np.repeat(probabilities(0.8, 0.5, 0.2), 3, axis=0)
    assert penalty_of(np.log([2.8, 2.8, 2.8]), curve) == pytest.approx(0, abs=1e-6)


def test_correction_costs_the_variance_of_its_logarithm():
    curve = np.repeat(probabilities(0.8, 0.5, 0.2), 2, axis=0)
    # 2.8 and 1.4 / 3 are log(6) / 2 from their middle.
    found = penalty_of(np.log([2.8, 1.4 / 3]), curve)
    assert found == pytest.approx(0.5 * (np.log(6) / 2) ** 2, rel=2e-3)


def test_correction_of_padding_counts_for_nothing():
    curve = np.repeat(probabilities(0.8, 0.5, 0.2), 6, axis=0)
    batch = make_labels(np.random.default_rng(0), 6)  # all but the first two are padding
    found = penalty_of(np.log([2.8, 1.4 / 3, 9, 9, 9, 9]), curve, batch=batch)
    assert found == pytest.approx(0.5 * (np.log(6) / 2) ** 2, rel=2e-3)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes TensorFlow's gradients")
def test_curve_learns_nothing_from_its_mean():
    import tensorflow as tf

    curve = tf.Variable(probabilities(0.8, 0.5, 0.2))
    with tf.GradientTape() as tape:
        loss = ops.sum(log_mean_of_curve(curve, np.float32(THRESHOLDS)))
    assert tape.gradient(loss, curve) is None


def slow_pairs(logits, batch):
    """Return the losses of all pairs of neighbours, one by one."""
    known = (batch["weight"] * batch["completed_weight"]) > 0
    completed = batch["completed"]
    return [
        np.logaddexp(0, -(logits[i] - logits[j]) * (completed[i] - completed[j]))
        for i, j in zip(range(1, ROWS), range(ROWS - 1), strict=True)
        if batch["user"][i] == batch["user"][j]
        and completed[i] != completed[j]
        and known[i]
        and known[j]
    ]


def test_pairwise_loss_compares_neighbours_of_one_user(raw, batch):
    pairs = slow_pairs(raw[:, 2].astype(np.float64), batch)
    assert len(pairs) > 5
    total, figures = loss_of(make_objective(pairwise_weight=0.7), raw, batch)
    assert figures["pairwise_loss"] == pytest.approx(np.mean(pairs), rel=1e-5)
    without = loss_of(make_objective(), raw, batch)[0]
    assert total == pytest.approx(without + 0.7 * np.mean(pairs), rel=1e-5)


def test_pairwise_loss_by_hand():
    batch = {
        "user": np.array([1, 1, 1, 2]),
        "completed": np.float32([1, 0, 0, 1]),
        "completed_weight": np.ones(4, np.float32),
        "weight": np.ones(4, np.float32),
    }
    # One pair: the first row is watched and the second is not.
    found = float(pairwise_loss(np.log(np.float32([3, 1, 1, 1])), batch))
    assert found == pytest.approx(np.log(1 + 1 / 3))


def test_batch_without_a_pair_has_no_pairwise_loss(raw, batch):
    nobody_twice = batch | {"user": np.arange(ROWS)}
    total, figures = loss_of(make_objective(pairwise_weight=0.7), raw, nobody_twice)
    assert figures["pairwise_loss"] == 0
    assert total == loss_of(make_objective(), raw, nobody_twice)[0]
