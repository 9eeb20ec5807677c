"""Layers alone, then together; what was watched as rows; the code that is drawn."""

import numpy as np
import pytest
from keras import ops

from recsys.candidates.auto_encoder import AutoEncoder, train_auto_encoder, unit_length
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.variational import VariationalAutoEncoder, annealed, train_variational
from recsys.candidates.watch_vectors import WatchVectors, known_watches
from recsys.core.backends import to_numpy
from recsys.data.examples import VALIDATION
from recsys.errors import ConfigError
from recsys.settings import AutoEncoderSettings, VariationalSettings
from tests.candidates.small_log import settings_of, shard_of
from tests.candidates.two_groups import NUM_ITEMS, cosines, training_labels, two_groups

WATCHED = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
LAYERED = {"batch_size": 16, "learning_rate": 0.01, "dropout": 0.2}


def tensors(batch):
    return {name: ops.convert_to_tensor(values) for name, values in batch.items()}


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_watches_become_rows_of_ones():
    labels = training_labels([[3, 3, 5, 0], [7, 1, 0], [2, 0]])
    batches = WatchVectors(labels, NUM_ITEMS, 2, seed=0)
    found, weights = [], []
    for batch in batches(0):
        assert batch["watched"].shape == (2, NUM_ITEMS)
        found += [np.flatnonzero(row).tolist() for row in batch["watched"]]
        weights += batch["weight"].tolist()
    assert sorted(found) == [[], [1, 7], [2], [3, 5]]
    assert weights == [1, 1, 1, 0]
    assert batches.num_batches() == 2


def test_order_of_users_is_a_function_of_the_epoch_alone():
    batches = WatchVectors(two_groups(), NUM_ITEMS, 80, seed=0)
    first, other, again = (next(batches(epoch))["watched"] for epoch in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_many_items_for_a_column_each_are_refused():
    with pytest.raises(ConfigError, match="at most 100,000 of them, got 100,001.*'skip_gram'"):
        WatchVectors(two_groups(), 100_001, 2, seed=0)


def test_only_what_was_known_before_a_label_is_watched():
    part = shard_of([[3, 4, 5], [7, 1]])
    labels = join_labels([part], settings_of(), split=VALIDATION, num_trained=NUM_ITEMS)
    watched = known_watches(join_sequences([part]).histories, labels, NUM_ITEMS)
    assert [np.flatnonzero(row).tolist() for row in watched] == [[3, 4], [7]]


def test_rows_are_of_length_one_or_empty():
    rows = to_numpy(unit_length(ops.convert_to_tensor(WATCHED)))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 0, 1], rtol=1e-6)


def test_loss_is_that_of_the_unrolled_layers():
    net = AutoEncoder(4, (3, 2), 0.5, seed=0)
    kernels = [to_numpy(layer.kernel.value) for layer in (*net.encoders, *net.decoders[::-1])]
    hidden = WATCHED / np.array([[2**0.5], [1], [2]])
    for kernel in kernels[:-1]:
        hidden = np.tanh(hidden @ kernel)
    surprise = -(WATCHED * np.log(softmax(hidden @ kernels[-1]))).sum(axis=1)
    batch = tensors({"watched": WATCHED, "weight": np.array([1, 1, 0], np.float32)})
    assert float(net.loss_of(batch, training=False)[0]) == pytest.approx(
        surprise[:2].mean(), rel=1e-5
    )


def test_inner_products_are_the_logits():
    for net in (AutoEncoder(4, (3, 2), 0.5, seed=0), VariationalAutoEncoder(4, 3, 2, 0.5, seed=0)):
        last = net.decoders[0] if isinstance(net, AutoEncoder) else net.output_layer
        last.bias.assign(np.arange(4, dtype=np.float32))
        outputs = net(ops.convert_to_tensor(WATCHED))
        hidden = outputs if isinstance(net, AutoEncoder) else outputs[0]
        scores = net.user_vectors(WATCHED)[:, 0] @ net.item_vectors().T
        np.testing.assert_allclose(scores, to_numpy(last(hidden)), rtol=1e-4, atol=1e-6)


def values_of(layers):
    return [to_numpy(weight.value) for layer in layers for weight in layer.weights]


def test_a_layer_alone_leaves_those_below_still(tmp_path):
    net = AutoEncoder(NUM_ITEMS, (4, 3), 0.2, seed=0)
    level = net.level(1)
    own = {id(weight) for weight in level.trainable_variables}
    assert own == {
        id(weight) for each in (net.encoders[1], net.decoders[1]) for weight in each.weights
    }
    inputs = to_numpy(level.inputs_of(ops.convert_to_tensor(np.eye(NUM_ITEMS, dtype=np.float32))))
    kernel = to_numpy(net.encoders[0].kernel.value)
    np.testing.assert_allclose(inputs, np.tanh(kernel), rtol=1e-4, atol=1e-6)
    given_back = np.tanh(
        np.tanh(inputs @ values_of([net.encoders[1]])[0]) @ values_of([net.decoders[1]])[0]
    )
    batch = {
        "watched": np.eye(NUM_ITEMS, dtype=np.float32),
        "weight": np.ones(NUM_ITEMS, np.float32),
    }
    assert float(level.loss_of(tensors(batch))[0]) == pytest.approx(
        np.square(given_back - inputs).mean(), rel=1e-4
    )


def test_watches_are_hidden_from_the_first_layer_alone_and_in_training():
    net = AutoEncoder(4, (3, 2), 0.5, seed=0)
    batch = tensors({"watched": WATCHED, "weight": np.ones(3, np.float32)})
    distinct = {}
    for number in (0, 1):
        level = net.level(number)
        for training in (True, False):
            found = {float(level.loss_of(batch, training)[0]) for _ in range(4)}
            distinct[number, training] = len(found)
    assert distinct.pop((0, True)) > 1
    assert distinct == {(0, False): 1, (1, True): 1, (1, False): 1}


def test_layers_are_trained_one_by_one_then_together(tmp_path):
    """Each layer learns to give its inputs back; what was learned alone is where all begin."""
    net = AutoEncoder(NUM_ITEMS, (6, 3), 0.2, seed=0)
    settings = AutoEncoderSettings(**LAYERED, level_epochs=4, max_epochs=1)
    batches = WatchVectors(two_groups(), NUM_ITEMS, 16, seed=0)
    history = train_auto_encoder(net, batches, settings, directory=tmp_path, seed=0)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {"level_1", "level_2"}
    untrained = AutoEncoder(NUM_ITEMS, (6, 3), 0.2, seed=0)
    at_once = settings.model_copy(update={"level_epochs": 0})
    without = train_auto_encoder(
        untrained, batches, at_once, directory=tmp_path / "at_once", seed=0
    )
    assert history.epochs[0].figures["loss"] < 0.97 * without.epochs[0].figures["loss"]
    assert not (tmp_path / "at_once" / "level_1").exists()


def test_auto_encoder_tells_the_groups_apart(tmp_path):
    net = AutoEncoder(NUM_ITEMS, (4, 2), 0.2, seed=0)
    batches = WatchVectors(two_groups(), NUM_ITEMS, 16, seed=0)
    settings = AutoEncoderSettings(**LAYERED, hidden=(2,), max_epochs=20)
    train_auto_encoder(net, batches, settings, directory=tmp_path, seed=0)
    within, across = cosines(net.item_rows())
    assert within > 0.5 > 0 > across
    scores = net.user_vectors(np.eye(NUM_ITEMS, dtype=np.float32))[:, 0] @ net.item_vectors().T
    shares = softmax(scores)
    assert shares[:, ::2][::2].sum(axis=1).min() > 0.9


def test_divergence_weight_rises_to_beta():
    settings = VariationalSettings(beta=0.4, annealing_epochs=8)
    weights = [float(annealed(settings, done)) for done in (0, 2, 8, 30)]
    assert weights == pytest.approx([0, 0.1, 0.4, 0.4])
    at_once = settings.model_copy(update={"annealing_epochs": 0})
    assert float(annealed(at_once, 0)) == pytest.approx(0.4)


def test_variational_loss_adds_the_weighted_divergence():
    net = VariationalAutoEncoder(4, 3, 2, 0.5, seed=0)
    batch = {"watched": WATCHED, "weight": np.array([1, 0, 1], np.float32)}
    without, weighted = (
        net.loss_of(
            tensors({**batch, "divergence_weight": np.asarray(weight, np.float32)}), training=False
        )
        for weight in (0.0, 3.0)
    )
    _, mean, log_variance = (to_numpy(each) for each in net(ops.convert_to_tensor(WATCHED)))
    divergence = (
        0.5 * (mean**2 + np.exp(log_variance) - log_variance - 1).sum(axis=1)[[0, 2]].mean()
    )
    assert float(weighted[0]) == pytest.approx(float(without[0]) + 3 * divergence, rel=1e-5)
    assert float(weighted[1]["divergence"]) == pytest.approx(divergence, rel=1e-5)


def test_codes_are_drawn_in_training_alone():
    net = VariationalAutoEncoder(4, 3, 2, 0.0, seed=0)
    watched = ops.convert_to_tensor(WATCHED)
    still = [to_numpy(net(watched)[0]) for _ in range(2)]
    drawn = [to_numpy(net(watched, training=True)[0]) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert not np.array_equal(*drawn)


def test_variational_auto_encoder_tells_the_groups_apart(tmp_path):
    net = VariationalAutoEncoder(NUM_ITEMS, 4, 2, 0.2, seed=0)
    batches = WatchVectors(two_groups(), NUM_ITEMS, 16, seed=0)
    settings = VariationalSettings(**LAYERED, max_epochs=20, annealing_epochs=10)
    history = train_variational(net, batches, settings, directory=tmp_path, seed=0)
    scores = net.user_vectors(np.eye(NUM_ITEMS, dtype=np.float32))[:, 0] @ net.item_vectors().T
    assert softmax(scores)[:, ::2][::2].sum(axis=1).min() > 0.9
    within, across = cosines(net.item_rows())
    assert within > 0.5 > 0 > across
    assert history.epochs[-1].figures["divergence"] > 0.5
