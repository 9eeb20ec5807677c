"""Causal attention: what it may look at, and that it computes what its equations say."""

import numpy as np
import pytest

from recsys.core.backends import to_numpy
from recsys.core.layers.attention import (
    LARGEST_DISTANCE,
    NUM_DISTANCE_BUCKETS,
    CausalAttention,
    GatedBlock,
    RelativeBias,
    distance_buckets,
)
from recsys.core.layers.prefixes import at_prefixes

WIDTH, HEADS = 8, 2


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def attention(rng, *, with_times=False):
    layer = CausalAttention(
        WIDTH, num_blocks=2, num_heads=HEADS, dropout=0.5, with_times=with_times, seed=0
    )
    layer.build(None)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(size=variable.shape).astype(np.float32))
    return layer


def test_buckets_are_exact_when_near_and_ascend_to_the_last():
    buckets = distance_buckets()
    np.testing.assert_array_equal(buckets[:16], np.arange(16))
    assert (np.diff(buckets) >= 0).all()
    assert buckets[LARGEST_DISTANCE] == NUM_DISTANCE_BUCKETS - 1


def test_no_state_sees_what_comes_after(rng):
    layer, rows = attention(rng), rng.normal(size=(1, 6, WIDTH)).astype(np.float32)
    before = to_numpy(layer(rows))
    changed = rows.copy()
    changed[0, 3] += 1
    after = to_numpy(layer(changed))
    np.testing.assert_array_equal(before[0, :4], after[0, :4])
    assert (np.abs(before[0, 4:] - after[0, 4:]).max(axis=1) > 1e-4).all()


def test_state_of_a_prefix_equals_the_prefix_alone(rng):
    layer, rows = attention(rng), rng.normal(size=(2, 7, WIDTH)).astype(np.float32)
    whole = to_numpy(layer(rows))
    for known in range(1, 7):
        alone = to_numpy(layer(rows[:, :known]))
        np.testing.assert_allclose(alone[:, known], whole[:, known], rtol=1e-4, atol=1e-5)


def test_no_prefix_sees_when_later_elements_were(rng):
    layer = attention(rng, with_times=True)
    rows = rng.normal(size=(1, 5, WIDTH)).astype(np.float32)
    seconds = np.array([[-9000, -8000, -300, -20, 0]], np.float32)
    later = np.array([[-9000, -8000, -300, 7e5, 9e6]], np.float32)
    before, after = (to_numpy(layer(rows, each)) for each in (seconds, later))
    np.testing.assert_array_equal(before[0, :4], after[0, :4])
    assert (before[0, 4:] != after[0, 4:]).any()


def test_bias_depends_on_the_distance_and_hides_what_lies_ahead(rng):
    layer = RelativeBias(HEADS, with_times=False)
    layer.build(None)
    table = rng.normal(size=(NUM_DISTANCE_BUCKETS, HEADS)).astype(np.float32)
    layer.by_distance.assign(table)
    bias = to_numpy(layer(np.zeros((1, 5, WIDTH), np.float32)))
    assert bias.shape == (1, HEADS, 5, 5)
    for query in range(5):
        for key in range(5):
            if key > query:
                assert (bias[0, :, query, key] < -1e8).all()
            else:
                np.testing.assert_allclose(bias[0, :, query, key], table[query - key])


def test_bias_by_time_depends_on_the_gap_alone(rng):
    layer = RelativeBias(1, with_times=True)
    layer.build(None)
    layer.by_time.assign(np.arange(32, dtype=np.float32)[:, None])
    rows = np.zeros((2, 3, WIDTH), np.float32)
    seconds = np.array([[0, 0.5, 3600], [-1e6, -1e6, 0]], np.float32)
    bias = to_numpy(layer(rows, seconds))[:, 0]
    assert bias[0, 1, 0] == 0  # less than a second
    assert bias[0, 2, 0] == bias[0, 2, 1] == int(np.log(3601) / np.log(1.9))
    assert bias[1, 1, 0] == 0
    assert bias[1, 2, 0] > bias[0, 2, 0]


def test_block_equals_a_slow_twin(rng):
    block = GatedBlock(WIDTH, HEADS, 0.5, seed=0)
    block.build(None)
    for variable in block.trainable_variables:
        variable.assign(rng.normal(size=variable.shape).astype(np.float32) * 0.5)
    rows = rng.normal(size=(1, 4, WIDTH)).astype(np.float32)
    bias = np.where(np.tri(4) > 0, 0, -1e9).astype(np.float32)[None, None]
    found = to_numpy(block(rows, bias))[0]
    np.testing.assert_allclose(found, slow_block(block, rows[0]), rtol=1e-3, atol=1e-4)


def slow_block(block, rows):
    """Compute a block position by position, head by head."""

    def value(layer, name):
        return to_numpy(getattr(layer, name).value).astype(np.float64)

    def norm(x, layer):
        root = np.sqrt((x**2).mean(axis=-1, keepdims=True) + layer.epsilon)
        return x / root * value(layer, "scale")

    def gate(x, layer):
        return 1 / (1 + np.exp(-(x @ value(layer, "kernel") + value(layer, "bias"))))

    x, head = rows.astype(np.float64), WIDTH // HEADS
    projected = norm(x, block.norms[0]) @ value(block.queries_keys_values, "kernel")
    attended = np.zeros_like(x)
    for h in range(HEADS):
        own = slice(h * head, (h + 1) * head)
        queries, keys, values = (
            projected[:, n * WIDTH : (n + 1) * WIDTH][:, own] for n in range(3)
        )
        for t in range(len(x)):
            weights = np.exp(keys[: t + 1] @ queries[t] / np.sqrt(head))
            attended[t, own] = weights @ values[: t + 1] / weights.sum()
    x = x + gate(x, block.gates[0]) * (attended @ value(block.mix_heads, "kernel"))
    widened = norm(x, block.norms[1]) @ value(block.widen, "kernel")
    content, switch = widened[:, : 2 * WIDTH], widened[:, 2 * WIDTH :]
    found = (switch / (1 + np.exp(-switch)) * content) @ value(block.narrow, "kernel")
    return x + gate(x, block.gates[1]) * found


def test_dropout_is_on_in_training_only(rng):
    layer, rows = attention(rng), rng.normal(size=(1, 3, WIDTH)).astype(np.float32)
    calm = to_numpy(layer(rows))
    np.testing.assert_array_equal(to_numpy(layer(rows)), calm)
    assert (to_numpy(layer(rows, training=True)) != calm).any()


def test_first_output_begins_near_the_length_of_embedded_rows(rng):
    layer = CausalAttention(64, num_blocks=2, num_heads=2, dropout=0.0, with_times=False, seed=0)
    rows = rng.normal(size=(1, 9, 64)).astype(np.float32) / 8  # length 1, as tables begin
    lengths = np.linalg.norm(to_numpy(layer(rows)), axis=-1)
    np.testing.assert_allclose(lengths[0, 1:], 1, rtol=0.05)


def test_at_prefixes_picks_the_state_of_each_length(rng):
    states = rng.normal(size=(2, 4, 3)).astype(np.float32)
    positions = np.array([[0, 3, 3], [2, 1, 0]], np.int32)
    found = to_numpy(at_prefixes(states, positions))
    np.testing.assert_allclose(found, states[np.arange(2)[:, None], positions], rtol=1e-6)
