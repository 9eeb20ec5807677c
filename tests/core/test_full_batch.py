"""Minimisation over all examples: against scikit-learn, and what the limits do."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from recsys.core.backends import to_numpy
from recsys.core.losses import binary_cross_entropy, weighted_mean
from recsys.core.optimizers.full_batch import METHODS, flatten, minimize

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(200, 3)).astype(np.float32)
LABELS = (ROWS @ [1.0, -2.0, 0.5] + rng.logistic(size=200) > 0.3).astype(np.float32)
PENALTY = 0.05


def batches():
    """Return two batches; of the second, the last rows are padding."""
    yield {"rows": ROWS[:120], "labels": LABELS[:120], "weight": np.ones(120, np.float32)}
    padding = np.full((40, 3), 9, np.float32)
    yield {
        "rows": np.concatenate([ROWS[120:], padding]),
        "labels": np.concatenate([LABELS[120:], np.ones(40, np.float32)]),
        "weight": np.repeat([1.0, 0.0], [80, 40]).astype(np.float32),
    }


def new_variables():
    return [
        keras.Variable(np.zeros(3, np.float32), name="kernel"),
        keras.Variable(np.float32(0), name="bias"),
    ]


def loss_of(variables):
    kernel, bias = variables

    def loss(batch):
        logits = ops.matmul(batch["rows"], ops.convert_to_tensor(kernel)[:, None])[:, 0] + bias
        return weighted_mean(binary_cross_entropy(logits, batch["labels"]), batch["weight"]), {}

    return loss


@pytest.mark.parametrize("method", METHODS)
def test_logistic_regression_is_that_of_scikit_learn(method):
    variables = new_variables()
    # The bias of scikit-learn is not penalised: hold the kernel alone.
    peer = LogisticRegression(C=1 / (PENALTY * len(ROWS)), tol=1e-8).fit(ROWS, LABELS)
    variables[1].assign(peer.intercept_[0])
    found = minimize(
        loss_of(variables),
        variables[:1],
        batches,
        method=method,
        max_iterations=100,
        penalty=PENALTY,
    )
    np.testing.assert_allclose(to_numpy(variables[0].value), peer.coef_[0], atol=2e-3)
    assert found.loss < found.first_loss
    assert found.num_passes >= found.num_iterations > 1


def test_all_variables_are_moved_and_the_rest_is_not():
    variables, other = new_variables(), keras.Variable(1.0)
    found = minimize(loss_of(variables), variables, batches, method="l-bfgs", max_iterations=50)
    peer = LogisticRegression(C=np.inf, tol=1e-8).fit(ROWS, LABELS)
    np.testing.assert_allclose(to_numpy(variables[0].value), peer.coef_[0], atol=1e-2)
    assert float(to_numpy(variables[1].value)) == pytest.approx(peer.intercept_[0], abs=1e-2)
    assert float(to_numpy(other.value)) == 1
    value = sum(
        float(np.sum(batch["weight"])) * float(loss_of(variables)(batch)[0]) for batch in batches()
    )
    assert value / 200 == pytest.approx(found.loss, rel=1e-4)


def test_iterations_and_seconds_end_it():
    few = minimize(loss_of(own := new_variables()), own, batches, method="l-bfgs", max_iterations=2)
    assert few.num_iterations == 2
    none = minimize(
        loss_of(own := new_variables()),
        own,
        batches,
        method="l-bfgs",
        max_iterations=50,
        max_seconds=0.0,
    )
    assert none.num_iterations <= 1


def test_arrays_are_laid_one_after_another():
    flat = flatten([np.array([[1, 2], [3, 4]], np.float32), np.float32(5)])
    np.testing.assert_array_equal(flat, [1, 2, 3, 4, 5])
    assert flat.dtype == np.float64


def test_ends_when_it_is_enough_and_the_variables_are_those_of_the_step():
    losses = []

    def is_enough():
        with_all = [float(to_numpy(loss_of(own)(batch)[0])) for batch in batches()]
        losses.append(np.average(with_all, weights=[120, 80]))
        return len(losses) == 3

    own = new_variables()
    found = minimize(
        loss_of(own), own, batches, method="l-bfgs", max_iterations=50, is_enough=is_enough
    )
    assert found.num_iterations == len(losses) == 3
    assert sorted(losses, reverse=True) == losses
    assert losses[-1] == pytest.approx(found.loss, rel=1e-5)


def test_variables_are_those_of_the_step_where_the_last_trial_was_elsewhere(monkeypatch):
    def two_trials(problem, start, *, callback, **_):
        problem(start + 2)
        problem(start + 5)
        with pytest.raises(StopIteration):
            callback(intermediate_result=optimize.OptimizeResult(x=start + 2))
        return optimize.OptimizeResult(nit=1, message="stopped")

    seen = []

    def is_enough():
        seen.append(to_numpy(own[1].value))
        return True

    monkeypatch.setattr(optimize, "minimize", two_trials)
    own = new_variables()
    minimize(loss_of(own), own, batches, method="l-bfgs", max_iterations=5, is_enough=is_enough)
    assert seen == [2]
