"""Pairs of sessions by hand and by a slow twin; groups never in one session end up apart."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from keras import ops

from recsys.candidates.skip_gram import (
    PairBatches,
    SkipGram,
    kept_shares,
    near_pairs,
    sessions,
    skip_gram_rows,
)
from recsys.core.backends import to_numpy
from recsys.errors import DataError
from recsys.settings import SkipGramSettings
from tests.candidates.two_groups import NUM_ITEMS, cosines, training_labels, two_groups

MINUTE_US = 60_000_000


def slow_pairs(session, reach):
    """Return the pairs of a double loop."""
    places = range(len(session))
    return {
        (first, second)
        for first in places
        for second in places
        if first != second
        and session[first] == session[second]
        and abs(first - second) <= reach[first]
    }


def test_pairs_of_two_sessions_by_hand():
    """Watches 0, 1, 2 and 3, 4; the middle one looks one far, the first two."""
    first, second = near_pairs(np.array([1, 1, 1, 2, 2]), np.array([2, 1, 1, 2, 2]))
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    assert pairs == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3)}


def test_pairs_equal_a_slow_twin():
    rng = np.random.default_rng(0)
    session, reach = np.sort(rng.integers(0, 6, 40)), rng.integers(1, 6, 40)
    pairs = list(zip(*(each.tolist() for each in near_pairs(session, reach)), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == slow_pairs(session, reach)


@pytest.mark.parametrize("session", [[], [1], [1, 2, 3]])
def test_sessions_of_one_watch_have_no_pairs(session):
    first, second = near_pairs(np.array(session, np.int64), np.full(len(session), 3))
    assert len(first) == len(second) == 0


def timed_labels():
    """Return the watches of two users, shuffled: minutes 0, 10, 41 of one, 5, 35 of the other."""
    labels = training_labels([[3, 4, 5, 0], [6, 7, 0]])
    minutes = np.array([0, 10, 41, 5, 35])
    labels = replace(labels, moment=minutes * MINUTE_US, has_time=np.ones(5, bool))
    return labels.take(np.array([4, 2, 0, 3, 1]))


@pytest.mark.parametrize(
    ("pause_minutes", "expected"),
    [(30, [1, 1, 2, 3, 3]), (29, [1, 1, 2, 3, 4]), (None, [1, 1, 1, 2, 2])],
)
def test_sessions_end_with_a_pause_or_their_user(pause_minutes, expected):
    item, session = sessions(timed_labels(), pause_minutes)
    assert item.tolist() == [3, 4, 5, 6, 7]
    assert session.tolist() == expected


def test_order_alone_has_no_pauses():
    labels = replace(timed_labels(), has_time=np.zeros(5, bool))
    assert sessions(labels, 30)[1].tolist() == [1, 1, 1, 2, 2]


def test_kept_shares_by_hand():
    """Shares .9 and .1 of the watches, threshold .1: sqrt(1 / 9), 1; an item without any stays."""
    np.testing.assert_allclose(kept_shares(np.array([9, 1, 0]), 0.1), [1 / 3, 1, 1])
    np.testing.assert_array_equal(kept_shares(np.array([9, 1]), 0.0), [1, 1])


def test_loss_of_a_pair_by_hand():
    net = SkipGram(3, 2, seed=0)
    net.items.table.assign(np.array([[0, 0], [1, 2], [9, 9], [9, 9]], np.float32))
    net.nearby.table.assign(np.array([[0, 0], [0, 0], [1, 1], [-1, 0]], np.float32))
    np.testing.assert_array_equal(net.item_rows(), [[1, 2], [9, 9], [9, 9]])
    batch = {
        "item": np.array([0, 2], np.int32),
        "near": np.array([1, 2], np.int32),
        "negatives": np.array([[2, 1], [0, 0]], np.int32),
        "weight": np.array([1, 0], np.float32),
    }
    tensors = {name: ops.convert_to_tensor(values) for name, values in batch.items()}
    found = float(net.loss_of(tensors)[0])
    # Label (1, 2) . (1, 1) = 3; negative (1, 2) . (-1, 0) = -1; the other negative is the label.
    assert found == pytest.approx(np.log1p(np.exp(-3)) + np.log1p(np.exp(-1)), rel=1e-5)


def test_sessions_without_a_pair_are_refused():
    with pytest.raises(DataError, match="two watches or more, got none.*pause_minutes.*'random'"):
        PairBatches(training_labels([[1, 0], [2, 0]]), NUM_ITEMS, SkipGramSettings(), seed=0)


def batches_of(labels, **changes):
    settings = SkipGramSettings.model_validate({"batch_size": 8, "window": 2} | changes)
    return PairBatches(labels, NUM_ITEMS, settings, seed=5)


def counted(labels, epoch=0, **changes):
    """Return how often each pair of items comes in an epoch, and the negatives."""
    pairs, negatives = Counter(), []
    for batch in batches_of(labels, **changes)(epoch):
        kept = batch["weight"] > 0
        pairs.update(zip(batch["item"][kept].tolist(), batch["near"][kept].tolist(), strict=True))
        negatives.append(batch["negatives"])
    return pairs, np.concatenate(negatives)


def test_an_epoch_has_every_pair_once():
    labels = training_labels([[1, 2, 3, 0], [4, 5, 0], [7, 0]])
    pairs, _ = counted(labels, window=1, subsample=0)
    once = [(1, 2), (2, 1), (2, 3), (3, 2), (4, 5), (5, 4)]
    assert pairs == Counter(once)


def test_batches_are_a_function_of_the_epoch_alone():
    batches = batches_of(two_groups())
    epochs = [list(batches(epoch)) for epoch in (1, 0, 1)]
    for first, again in zip(epochs[0], epochs[2], strict=True):
        for name, values in first.items():
            np.testing.assert_array_equal(values, again[name])
    assert any(
        not np.array_equal(first["item"], other["item"])
        for first, other in zip(epochs[0], epochs[1], strict=False)
    )
    assert {len(batch["item"]) for epoch in epochs for batch in epoch} == {8}
    assert batches.num_batches() == len(epochs[1])


def test_negatives_follow_the_frequency_to_the_power_of_three_quarters():
    """Item 0 is watched 16 times as often as item 1: it is drawn 8 times as often."""
    labels = training_labels([[0] * 16 + [1, 2]] * 30)
    _, negatives = counted(labels, subsample=0, num_negatives=40)
    drawn = np.bincount(negatives.ravel(), minlength=NUM_ITEMS)
    assert drawn[0] / drawn[1] == pytest.approx(8, rel=0.05)


def test_frequent_items_are_left_out_before_pairs_are_made():
    """What is left stands nearer: 1 and 2 are neighbours once 0 is gone from between them."""
    labels = training_labels([[1, 0, 2, 0]] + [[0] * 9] * 30)
    whole, _ = counted(labels, window=1, subsample=0)
    assert whole[1, 2] == 0
    kept = kept_shares(np.array([271, 1, 1]), 1e-2)
    assert kept[0] < 0.11 and kept[1] == 1
    epochs = [counted(labels, epoch, window=1, subsample=1e-2)[0] for epoch in range(10)]
    thinned = sum(epochs, Counter())
    assert thinned[1, 2] >= 5
    assert thinned[0, 0] < whole[0, 0]


def test_groups_never_in_one_session_end_up_apart(tmp_path):
    settings = SkipGramSettings(
        window=3, subsample=0, batch_size=128, max_epochs=12, learning_rate=0.02
    )
    rows = skip_gram_rows(two_groups(), NUM_ITEMS, 4, settings, directory=tmp_path, seed=1)
    within, across = cosines(rows)
    assert within > 0.8
    assert across < 0.3
    again = skip_gram_rows(two_groups(), NUM_ITEMS, 4, settings, directory=tmp_path, seed=1)
    np.testing.assert_array_equal(again, rows)


def test_untrained_pairs_are_as_likely_as_not():
    net = SkipGram(NUM_ITEMS, 4, seed=0)
    batch = next(batches_of(two_groups())(0))
    tensors = {name: ops.convert_to_tensor(values) for name, values in batch.items()}
    is_told = batch["negatives"] != batch["near"][:, None]
    expected = np.log(2) * (1 + is_told.sum(axis=1)[batch["weight"] > 0].mean())
    assert float(net.loss_of(tensors)[0]) == pytest.approx(expected, rel=1e-5)
    assert to_numpy(net.items.table.value)[1:].std() > 0.1
