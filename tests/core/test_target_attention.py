"""Attention of candidates over a sequence: what it may look at, and that it computes its equation.

Q requests, C candidates, T elements; A, B and V columns of candidates, keys and values.
"""

import numpy as np
import pytest
import tensorflow as tf

from recsys.core.backends import to_numpy
from recsys.core.layers.target_attention import TargetAttention
from recsys.core.onnx_export import Input, Output, export_onnx

A, B, V, WIDTH, HEADS = 3, 4, 5, 6, 2


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def layer(rng):
    layer = TargetAttention(WIDTH, HEADS, seed=0)
    layer.build((None, None, A), (None, None, B), (None, None, V))
    for variable in layer.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape).astype(np.float32))
    return layer


def make_inputs(rng, requests=3, candidates=4, length=5):
    """Return inputs in which the last request knows nothing."""
    is_known = rng.random((requests, length)) < 0.6
    is_known[:, :1] = True
    is_known[-1] = requests == 1
    shapes = {
        "candidates": (requests, candidates, A),
        "keys": (requests, length, B),
        "values": (requests, length, V),
    }
    rows = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return rows | {"is_known": is_known}


def call(layer, inputs):
    return to_numpy(layer(**inputs))


def slow_attention(layer, candidate, keys, values):
    """Compute what one candidate finds in elements that are all known, head by head."""

    kernels = {
        "query": layer.queries.kernel,
        "key": layer.key_kernel,
        "value": layer.value_kernel,
    }
    biases = {"query": layer.queries.bias, "value": layer.value_bias}

    def project(name, row):
        bias = to_numpy(biases[name].value) if name in biases else 0
        return row.astype(np.float64) @ to_numpy(kernels[name].value) + bias

    heads, size = [], WIDTH // HEADS
    for own in (slice(start, start + size) for start in range(0, WIDTH, size)):
        query = project("query", candidate)[own]
        odds = np.exp([query @ project("key", key)[own] / np.sqrt(size) for key in keys])
        found = [project("value", value)[own] for value in values]
        heads.append(sum(share * row for share, row in zip(odds / odds.sum(), found, strict=True)))
    return np.concatenate(heads)


def test_one_candidate_by_hand():
    layer = TargetAttention(1, 1, seed=0)
    layer.build((None, None, 1), (None, None, 1), (None, None, 1))
    for variable in layer.trainable_variables:
        variable.assign(np.ones(variable.shape))
    keys = np.log([[[3.0], [1.0], [9.0]]]).astype(np.float32)
    values = np.array([[[2], [6], [1e6]]], np.float32)
    # The query is 0 + 1, the shares are 3 / 4 and 1 / 4, the values 3 and 7.
    found = layer(np.zeros((1, 1, 1), np.float32), keys, values, np.array([[1, 1, 0]]))
    np.testing.assert_allclose(to_numpy(found), [[[4]]], rtol=1e-6)


def test_candidates_equal_a_slow_twin(rng, layer):
    inputs = make_inputs(rng)
    found = call(layer, inputs)
    for request in range(2):
        is_known = inputs["is_known"][request]
        known = [inputs[name][request][is_known] for name in ("keys", "values")]
        for place, candidate in enumerate(inputs["candidates"][request]):
            expected = slow_attention(layer, candidate, *known)
            np.testing.assert_allclose(found[request, place], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 3])
def test_one_known_element_gives_its_value(rng, layer, length):
    inputs = make_inputs(rng, requests=1, length=length)
    inputs["is_known"][:] = np.arange(length) == 0
    value = inputs["values"][0, 0] @ to_numpy(layer.value_kernel.value)
    expected = [[value + to_numpy(layer.value_bias.value)] * 4]
    np.testing.assert_allclose(call(layer, inputs), expected, rtol=1e-4, atol=1e-5)


def test_sequence_without_known_elements_gives_zeros(rng, layer):
    found = call(layer, make_inputs(rng))
    np.testing.assert_array_equal(found[-1], 0)
    assert found[:-1].all()


def test_sequence_without_elements_gives_zeros(rng, layer):
    found = call(layer, make_inputs(rng, length=0))
    np.testing.assert_array_equal(found, np.zeros((3, 4, WIDTH)))


def test_order_of_the_sequence_changes_nothing(rng, layer):
    inputs, order = make_inputs(rng), rng.permutation(5)
    shuffled = {
        name: values if name == "candidates" else values[:, order]
        for name, values in inputs.items()
    }
    np.testing.assert_allclose(call(layer, shuffled), call(layer, inputs), rtol=1e-4, atol=1e-5)


def test_unknown_elements_change_nothing(rng, layer):
    inputs = make_inputs(rng)
    poisoned = {name: values.copy() for name, values in inputs.items()}
    for name in ("keys", "values"):
        poisoned[name][~inputs["is_known"]] = 1e6
    np.testing.assert_array_equal(call(layer, poisoned), call(layer, inputs))


def test_padding_changes_nothing(rng, layer):
    inputs, padding = make_inputs(rng), make_inputs(rng, length=2)
    padding["is_known"][:] = False
    padded = {
        name: values if name == "candidates" else np.concatenate([values, padding[name]], axis=1)
        for name, values in inputs.items()
    }
    np.testing.assert_allclose(call(layer, padded), call(layer, inputs), rtol=1e-4, atol=1e-5)


def test_known_may_be_numbers(rng, layer):
    inputs = make_inputs(rng)
    for dtype in (np.int32, np.float32):
        numbers = inputs | {"is_known": inputs["is_known"].astype(dtype)}
        np.testing.assert_array_equal(call(layer, numbers), call(layer, inputs))


def test_candidates_together_equal_each_alone(rng, layer):
    inputs = make_inputs(rng, requests=1, candidates=300, length=50)
    together = call(layer, inputs)
    for place in (0, 1, 150, 299):
        alone = inputs | {"candidates": inputs["candidates"][:, place : place + 1]}
        found = call(layer, alone)[:, 0]
        np.testing.assert_allclose(found, together[:, place], rtol=1e-4, atol=1e-5)


def test_requests_together_equal_each_alone(rng, layer):
    inputs = make_inputs(rng)
    together = call(layer, inputs)
    for request in range(3):
        alone = {name: values[request : request + 1] for name, values in inputs.items()}
        np.testing.assert_allclose(call(layer, alone)[0], together[request], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [0, 3])
def test_gradients_of_empty_sequences_are_zero(rng, layer, length):
    inputs = {name: tf.constant(values) for name, values in make_inputs(rng, 2, 1, length).items()}
    inputs["is_known"] = tf.zeros((2, length))
    learned = [variable.value for variable in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(layer(**inputs))
    rows = [inputs[name] for name in ("candidates", "keys", "values")]
    for gradient in tape.gradient(total, [*learned, *rows]):
        np.testing.assert_array_equal(to_numpy(gradient), 0)


def test_first_values_depend_on_the_seed(rng):
    inputs = make_inputs(rng)
    first, second, other = (
        call(TargetAttention(WIDTH, HEADS, seed=seed), inputs) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first[:-1] != other[:-1]).all()


def test_projections_begin_apart():
    layer = TargetAttention(WIDTH, HEADS, seed=0)
    layer.build((None, None, B), (None, None, B), (None, None, B))
    kernels = [layer.queries.kernel, layer.key_kernel, layer.value_kernel]
    first, second, third = (to_numpy(kernel.value) for kernel in kernels)
    assert (first != second).all()
    assert (second != third).all()


def test_queries_and_values_have_a_bias_and_keys_have_none(layer):
    shapes = sorted(tuple(variable.shape) for variable in layer.trainable_variables)
    assert shapes == sorted([(A, WIDTH), (B, WIDTH), (V, WIDTH), (WIDTH,), (WIDTH,)])


def test_onnx_computes_the_same(rng, layer, tmp_path):
    sizes = [(3, 1, 5), (1, 7, 1)]
    cases = [make_inputs(rng, *size) for size in sizes]
    cases = [case | {"is_known": case["is_known"].astype(np.float32)} for case in cases]
    axes = {
        "candidates": ("batch", "candidates", A),
        "keys": ("batch", "length", B),
        "values": ("batch", "length", V),
        "is_known": ("batch", "length"),
    }
    export_onnx(
        lambda batch: layer(**batch),
        {name: Input("float32", own) for name, own in axes.items()},
        Output("found", ("batch", "candidates", WIDTH)),
        tmp_path / "attention.onnx",
        checks=[(case, call(layer, case)) for case in cases],
    )
