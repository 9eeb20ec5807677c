"""The histories, and that each method learns by the gradient that it says."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import synthetic_gradient
from benchmarks.long_histories import (
    BATCH,
    LENGTH,
    NUM_SERIES,
    Histories,
    next_item,
    reminders,
    with_labels_ahead,
)
from benchmarks.synthetic_gradient import METHODS, HistoryNet, Method, pieces
from recsys.core.random import stream
from recsys.data.timelines import WatchHistories


def test_reminders_are_of_the_series_begun_last_and_never_near():
    drawn = reminders(4).draw(stream(0, "test"))
    user, time = np.nonzero(drawn.weight)
    assert drawn.weight.sum() == BATCH * 5
    for row, moment, label in zip(user, time, drawn.labels[user, time], strict=True):
        before = drawn.items[row, :moment]
        begun = np.flatnonzero(before <= NUM_SERIES)[-1]
        assert before[begun] == label + 1
        assert 16 <= moment - begun <= 24
        assert drawn.items[row, moment] == NUM_SERIES + 1
    others = drawn.items[drawn.weight == 0]
    assert not (others == NUM_SERIES + 1).any()


def test_held_out_reminders_are_asked_for_when_the_user_comes_back():
    task = reminders(6)
    asked = np.take_along_axis(task.items, task.places - 1, axis=1)
    assert (asked == NUM_SERIES + 1).all()
    perfect = np.eye(NUM_SERIES)[task.labels]
    assert task.metric(perfect) == 1
    assert task.metric(np.zeros_like(perfect)) == 0  # Ties count against the label.


def test_next_item_learns_from_no_watch_that_is_held_out():
    """Users of 250, 100 and 209 watches; user u's watch n is item n, or 1,000 + n."""
    counts = [250, 100, 209]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    code = np.concatenate([np.arange(n) + 1 + 1000 * u for u, n in enumerate(counts)])
    histories = WatchHistories(offsets, code.astype(np.int32), code)
    task = next_item(histories, 3000)
    assert task.items[:, 0].tolist() == [42, 2001]
    assert task.labels[:, 0].tolist() == [42 + 200, 2001 + 200]  # Item 242 is code 243.
    np.testing.assert_array_equal(
        np.take_along_axis(task.items, task.places - 1, axis=1), task.labels
    )


def test_next_item_draws_each_watch_with_the_one_after_it():
    offsets = np.arange(0, 210 * 41, 210)
    code = np.tile(np.arange(210, dtype=np.int32) + 1, 40)
    drawn = next_item(WatchHistories(offsets, code, code), 210).draw(stream(0, "test"))
    np.testing.assert_array_equal(drawn.labels, np.tile(np.arange(2, 202), (BATCH, 1)))
    np.testing.assert_array_equal(drawn.items, drawn.labels)  # Code of an item: its row + 1.
    assert drawn.weight.all()


def test_labels_ahead_are_those_of_the_next_chunk_that_has_any():
    labels, weight = np.zeros((1, 32), int), np.zeros((1, 32), np.float32)
    labels[0, [17, 23]], weight[0, [17, 23]] = [1, 2], 1
    found = with_labels_ahead(labels, labels, weight, 3).ahead[0]
    assert found.tolist() == [[0, 1, 1], [0, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]]


@pytest.fixture
def histories(monkeypatch):
    """Two histories of 24 with a label after each watch; nets of three units."""
    monkeypatch.setattr(synthetic_gradient, "WIDTH", 3)
    rng = np.random.default_rng(0)
    items = rng.integers(1, 6, (2, 24)).astype(np.int32)
    labels = rng.integers(0, NUM_SERIES, (2, 24)).astype(np.int32)
    return with_labels_ahead(items, labels, np.ones((2, 24), np.float32), NUM_SERIES)


def gradients(histories: Histories, method: Method):
    """Return the sum of the GRU's gradients over the steps of a batch, none of them taken."""
    net = HistoryNet(reminders(1), method, seed=0)
    weights = [variable.value for variable in net.reader.trainable_variables]
    state, total = tf.zeros((2, 3)), 0.0
    for piece in pieces(histories, method):
        with tf.GradientTape() as tape:
            value, figures = net.loss_of({**piece, "state": state})
        state = figures["state"]
        total = total + np.concatenate([np.ravel(each) for each in tape.gradient(value, weights)])
    return total


def test_first_step_of_synthetic_gradients_is_truncated_backpropagation(histories):
    whole = gradients(histories, Method(24))
    truncated = gradients(histories, METHODS["truncated"])
    assert np.abs(whole - truncated).max() > 1e-3
    first = gradients(histories, METHODS["synthetic"])
    np.testing.assert_allclose(first, truncated, rtol=1e-5, atol=1e-6)
    cut_within = gradients(histories, Method(24, has_predictor=True))
    np.testing.assert_allclose(cut_within, truncated, rtol=1e-5, atol=1e-6)


def test_mix_of_true_gradients_alone_is_backpropagation(histories):
    mixed = gradients(histories, Method(24, has_predictor=True, true_share=1.0))
    np.testing.assert_allclose(mixed, gradients(histories, Method(24)), rtol=1e-5, atol=1e-6)


def test_pieces_carry_the_labels_ahead_of_their_cuts_and_end(histories):
    found = list(pieces(histories, METHODS["synthetic"]))
    assert [float(piece["continues"]) for piece in found] == [1, 1, 0]
    np.testing.assert_array_equal(found[1]["ahead"], histories.ahead[:, 1:3])
    np.testing.assert_array_equal(found[1]["items"], histories.items[:, 8:16])
    untold = next(pieces(histories, METHODS["synthetic, no labels"]))
    assert not untold["ahead"].any()


def test_nothing_is_predicted_behind_the_end(histories):
    net = HistoryNet(reminders(1), METHODS["synthetic"], seed=0)
    net.predictor.last.bias.assign([1.0, 2.0, 3.0])
    last = list(pieces(histories, METHODS["synthetic"]))[-1] | {"state": np.zeros((2, 3))}
    ends, goes_on = (
        float(net.loss_of(last | {"continues": np.float32(continues)})[0]) for continues in (0, 1)
    )
    plain = HistoryNet(reminders(1), METHODS["truncated"], seed=0)
    assert ends == pytest.approx(float(plain.loss_of(last)[0]), rel=1e-5)
    assert abs(goes_on - ends) > 1e-3


def test_a_world_where_memory_pays_is_as_long_as_it_says():
    assert reminders(1).items.shape == (1, LENGTH)
