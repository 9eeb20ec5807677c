"""Rules of rows: their equations, duplicates, untouched rows, dense gradients, resuming."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from pydantic import ValidationError

from recsys.core.backends import compile_step, gather_rows, to_numpy
from recsys.core.checkpoint import (
    Checkpoint,
    Checkpoints,
    read_variables,
    write_variables,
)
from recsys.core.optimizers.by_name import new_optimizer
from recsys.core.optimizers.row_sparse import is_table
from recsys.settings import TrainingSettings
from tests.candidates.small_log import model_of, settings_of
from tests.ranking.small_net import make_model

RULES = ("adagrad", "row_adagrad", "lazy_adam")
NUM_ROWS, WIDTH, RATE = 6, 3, 0.1


class Net(keras.Model):
    """A table of rows, one of scalars, a kernel; a linear loss, whose gradients are the slopes."""

    def __init__(self):
        super().__init__()
        self.rows = self.add_weight(
            shape=(NUM_ROWS, WIDTH), initializer=lambda shape, dtype: start_rows(), name="table"
        )
        self.biases = self.add_weight(shape=(NUM_ROWS,), initializer="zeros", name="bias_table")
        self.kernel = self.add_weight(shape=(WIDTH,), initializer="ones", name="kernel")
        self.built = True

    def sparse_loss(self, batch):
        rows, biases = (gather_rows(each, batch["ids"]) for each in (self.rows, self.biases))
        return self._loss(rows, biases, batch)

    def dense_loss(self, batch):
        """Has the gradient of the whole tables, as a softmax over all rows has."""
        rows, biases = (
            ops.take(ops.convert_to_tensor(each) * 1.0, batch["ids"], axis=0)
            for each in (self.rows, self.biases)
        )
        return self._loss(rows, biases, batch)

    def _loss(self, rows, biases, batch):
        total = ops.sum(rows * batch["slopes"]) + ops.sum(biases * batch["slopes"][:, 0])
        return total + ops.sum(self.kernel * batch["slopes"][0]), {}


def start_rows():
    return np.random.default_rng(7).standard_normal((NUM_ROWS, WIDTH)).astype(np.float32)


def batch_of(ids, slopes):
    return {"ids": np.array(ids, np.int32), "slopes": np.array(slopes, np.float32)}


def random_batches(count, *, ids=(0, 1, 3, 4), size=9):
    """Make batches with repeated ids; slopes of very different sizes tell roots from squares."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        slopes = rng.standard_normal((size, WIDTH)) * 10.0 ** rng.integers(-3, 2, (size, 1))
        yield batch_of(rng.choice(ids, size), slopes)


def training_of(rule, *, loss="sparse_loss", **settings):
    """Return a net, its optimizer and its step."""
    model = Net()
    chosen = {"learning_rate": RATE, "table_optimizer": rule} | settings
    optimizer = new_optimizer(TrainingSettings(**chosen), 100)
    optimizer.build(model.trainable_variables)
    return model, optimizer, compile_step(model, getattr(model, loss), optimizer)


def weights_after(rule, batches, **options):
    model, _, step = training_of(rule, **options)
    for batch in batches:
        step(batch)
    return [to_numpy(each.value) for each in (model.rows, model.biases, model.kernel)]


def gradient_of(batch):
    gradient = np.zeros((NUM_ROWS, WIDTH))
    np.add.at(gradient, batch["ids"], batch["slopes"])
    return gradient


class Twin:
    """The rules in plain loops over rows, float64."""

    def __init__(self, rule, weights):
        self.rule, self.weights = rule, weights.astype(float)
        self.a, self.m, self.v = (np.zeros_like(self.weights) for _ in range(3))
        self.steps = np.zeros(len(weights))

    def take(self, gradient):
        for row, g in enumerate(gradient):
            if g.any():
                self.weights[row] -= RATE * getattr(self, f"_{self.rule}")(row, g)

    def _adagrad(self, row, g):
        self.a[row] += g**2
        return g / (np.sqrt(self.a[row]) + 1e-8)

    def _row_adagrad(self, row, g):
        self.a[row] += sum(each**2 for each in g) / len(g)
        return g / (np.sqrt(self.a[row]) + 1e-8)

    def _lazy_adam(self, row, g):
        self.steps[row] += 1
        self.m[row] = 0.9 * self.m[row] + 0.1 * g
        self.v[row] = 0.999 * self.v[row] + 0.001 * g**2
        mean = self.m[row] / (1 - 0.9 ** self.steps[row])
        return mean / (np.sqrt(self.v[row] / (1 - 0.999 ** self.steps[row])) + 1e-8)


@pytest.mark.parametrize("rule", RULES)
def test_rule_equals_its_slow_twin_over_random_steps(rule):
    rows, biases = Twin(rule, start_rows()), Twin(rule, np.zeros((NUM_ROWS, 1)))
    for batch in random_batches(6):
        rows.take(gradient_of(batch))
        biases.take(gradient_of(batch)[:, :1])
    found = weights_after(rule, random_batches(6))
    # 1 - .999^t keeps four digits of float32's seven.
    np.testing.assert_allclose(found[0], rows.weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], biases.weights[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "moved"),
    [
        # Slopes (3, -8, 0) and (0, 4, 0) sum to g = (3, -4, 0); the mean of g^2 is 25 / 3.
        ("row_adagrad", [3 / np.sqrt(25 / 3), -4 / np.sqrt(25 / 3), 0]),
        ("adagrad", [1, -1, 0]),
        ("lazy_adam", [1, -1, 0]),
    ],
)
def test_repeated_ids_are_summed_before_they_are_squared(rule, moved):
    batch = batch_of([2, 2], [[3, -8, 0], [0, 4, 0]])
    found = weights_after(rule, [batch])[0]
    np.testing.assert_allclose(start_rows()[2] - found[2], RATE * np.array(moved), atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Gradients .3, then .4: accumulators .09, .25.
        ("adagrad", [1, 1 + 0.4 / 0.5]),
        ("row_adagrad", [1, 1 + 0.4 / 0.5]),
        # m = .03, .067; v = .00009, .00024991; corrected by 1 - .9^t and 1 - .999^t.
        ("lazy_adam", [1, 1 + (0.067 / 0.19) / np.sqrt(0.00024991 / 0.001999)]),
    ],
)
def test_second_step_of_a_scalar_row_is_as_worked_by_hand(rule, expected):
    batches = [batch_of([4], [[slope, 0, 0]]) for slope in (0.3, 0.4)]
    for count, moved in enumerate(expected, start=1):
        found = weights_after(rule, batches[:count])[1][4]
        assert found == pytest.approx(-RATE * moved, rel=5e-5)


@pytest.mark.parametrize("rule", RULES)
def test_tiny_gradients_move_rows_as_far_as_large_ones(rule):
    """Gradients of a mean over many examples are small: the rate must not drown in a constant."""
    found = weights_after(rule, [batch_of([4], [[1e-5, 0, 0]])])[1][4]
    assert found == pytest.approx(-RATE, rel=0.02)


@pytest.mark.parametrize("rule", RULES)
def test_rows_outside_the_batch_stay_bit_for_bit_with_their_slots(rule):
    model, optimizer, step = training_of(rule)
    for batch in random_batches(3, ids=range(NUM_ROWS)):
        step(batch)
    tables = [v for v in (*model.variables, *optimizer.variables) if v.shape[:1] == (NUM_ROWS,)]
    assert len(tables) >= 4
    before = list(read_variables(tables))
    step(batch_of([0, 3, 3], np.ones((3, WIDTH))))
    for old, new in zip(before, read_variables(tables), strict=True):
        untouched = [1, 2, 4, 5]
        np.testing.assert_array_equal(old[untouched], new[untouched])
        assert (old[[0, 3]] != new[[0, 3]]).all()


@pytest.mark.parametrize("rule", RULES)
def test_dense_gradients_give_the_same_tables_as_sparse_ones(rule):
    sparse = weights_after(rule, random_batches(5))
    dense = weights_after(rule, random_batches(5), loss="dense_loss")
    for ours, theirs in zip(sparse, dense, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("rule", "dense", "options"),
    [
        ("lazy_adam", keras.optimizers.Adam, {}),
        ("adagrad", keras.optimizers.Adagrad, {"initial_accumulator_value": 0.0}),
    ],
)
def test_rule_is_the_dense_rule_where_every_row_is_in_every_batch(rule, dense, options):
    ids = np.repeat(np.arange(NUM_ROWS), 2)
    rng = np.random.default_rng(2)
    batches = [batch_of(ids, rng.standard_normal((len(ids), WIDTH))) for _ in range(5)]
    expected = keras.Variable(start_rows())
    optimizer = dense(RATE, epsilon=1e-12, **options)
    optimizer.build([expected])
    for batch in batches:
        optimizer.apply([ops.convert_to_tensor(gradient_of(batch), "float32")], [expected])
    found = weights_after(rule, batches)[0]
    np.testing.assert_allclose(found, to_numpy(expected.value), rtol=1e-5, atol=2e-5)


def test_lazy_adam_corrects_a_late_row_by_its_own_steps():
    early = [batch_of([1], [[1, 1, 1]])] * 20
    found = weights_after("lazy_adam", [*early, batch_of([4], [[0.5, 0.5, 0.5]])])[0]
    np.testing.assert_allclose(start_rows()[4] - found[4], RATE, rtol=1e-4)


def test_table_rate_and_warm_up_are_respected():
    """A constant gradient moves Adagrad by rate / sqrt(t): rates .2 and .4, halved and whole."""
    batches = [batch_of([2], [[1, 1, 1]])] * 2
    options = {"table_learning_rate": 0.4, "warmup_steps": 2}
    tables, kernel = weights_after("adagrad", batches, **options)[1:]
    assert tables[2] == pytest.approx(-0.2 - 0.4 / np.sqrt(2), rel=1e-5)
    np.testing.assert_allclose(kernel, 1 - RATE / 2 - RATE, rtol=1e-5)


def test_decay_of_the_rate_reaches_tables():
    batches = [batch_of([2], [[1, 1, 1]])] * 2
    moved = weights_after("adagrad", batches, decay="linear", max_epochs=1)[1][2]
    assert moved == pytest.approx(-RATE * (1 + 0.99 / np.sqrt(2)), rel=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_weight_decay_spares_tables(rule):
    plain = weights_after(rule, random_batches(3))
    decayed = weights_after(rule, random_batches(3), weight_decay=0.5)
    np.testing.assert_array_equal(plain[0], decayed[0])
    assert (plain[2] != decayed[2]).all()


@pytest.mark.parametrize("rule", RULES)
def test_training_goes_on_bit_for_bit_from_a_checkpoint(rule, tmp_path):
    batches = list(random_batches(6))
    whole = weights_after(rule, batches, decay="linear")
    model, optimizer, step = training_of(rule, decay="linear")
    for batch in batches[:3]:
        step(batch)
    groups = {"model": model.variables, "optimizer": optimizer.variables}
    saved = {name: read_variables(variables) for name, variables in groups.items()}
    Checkpoints(tmp_path, 1).save(Checkpoint(saved, {}))
    model, optimizer, step = training_of(rule, decay="linear")
    loaded = Checkpoints(tmp_path, 1).load()
    write_variables(model.variables, loaded.groups["model"])
    write_variables(optimizer.variables, loaded.groups["optimizer"])
    for batch in batches[3:]:
        step(batch)
    for ours, theirs in zip(read_variables(model.variables), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


UNDER_JAX = """
import json, keras
from tests.core.test_row_sparse import RULES, random_batches, weights_after
found = {rule: [w.tolist() for w in weights_after(rule, random_batches(5))] for rule in RULES}
print(json.dumps([keras.backend.backend(), found]))
"""


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed: extra `jax`")
def test_rules_give_the_same_weights_under_jax():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", UNDER_JAX],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    backend, found = json.loads(done.stdout.splitlines()[-1])
    assert backend == "jax"
    for rule, weights in found.items():
        for ours, theirs in zip(weights_after(rule, random_batches(5)), weights, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def test_tables_of_both_nets_are_known():
    candidates = model_of(settings_of())
    tables = {v.path for v in candidates.trainable_variables if is_table(v)}
    assert len(tables) == 5  # watches, tokens, country, outputs, their biases
    assert {v.path for v in candidates.trainable_variables} - tables == {
        v.path for layer in (candidates.tower, candidates.to_user_vector) for v in layer.weights
    }
    ranking, _ = make_model()
    tables = [v for v in ranking.trainable_variables if is_table(v)]
    every = (ranking.tables, ranking.event_tables, ranking.bias.tables)
    assert len(tables) == sum(len(each) for each in every)


def test_table_rate_without_a_rule_of_tables_is_refused():
    with pytest.raises(ValidationError, match="has no effect with table_optimizer = 'adam'"):
        TrainingSettings(table_learning_rate=0.1)
