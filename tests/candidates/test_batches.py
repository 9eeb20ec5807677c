"""Batches against the log they were made of."""

import numpy as np
import pytest

from recsys.candidates.batches import TrainingBatches
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.data.examples import TRAINING
from tests.candidates.small_log import NUM_ITEMS, random_shard, settings_of


def load(parts, settings, *, split=TRAINING):
    sequences = join_sequences(parts)
    return sequences, join_labels(parts, settings, split=split, num_trained=NUM_ITEMS)


def make(parts, seed=0, **changes):
    settings = settings_of(**changes)
    sequences, labels = load(parts, settings)
    sampler = None
    if settings.loss == "sampled_softmax":
        sampler = NegativeSampler({"frequency": 7}, np.ones(NUM_ITEMS, np.int64))
    return TrainingBatches(sequences, labels, settings, sampler, seed=seed), sequences, labels


def examples_of(batch):
    """Yield (history known to the example, label, token codes, country, age) of real examples."""
    for row, column in np.argwhere(batch["weight"] > 0):
        known = batch["positions"][row, column]
        yield (
            tuple(batch["history"][row, :known]),
            batch["labels"][row, column],
            tuple(batch["search_tokens"][row, column]),
            batch["context"][row, column, 0],
            batch["example_age"][row, column],
        )


def expected_examples(parts, settings, lookback):
    """Yield what each training label may see, straight from the shards."""
    sequences, labels = load(parts, settings)
    for n in range(len(labels)):
        user, known = labels.user[n], labels.known_watches[n]
        own = sequences.histories.code[sequences.histories.offsets[user] :][:known]
        tokens = sequences.token[sequences.token_offsets[user] :][: labels.known_tokens[n]]
        newest = tuple(tokens[-3:]) + (0,) * (3 - len(tokens[-3:]))
        age = np.float32(labels.example_age[n])
        yield tuple(own)[-lookback:], labels.item[n], newest, labels.context[n, 0], age


PARTS = [random_shard(7, seed=0), random_shard(6, seed=1)]


def test_batches_hold_every_label_with_what_it_may_see():
    batches, _, _ = make(PARTS, max_positions_per_user=1000)
    lookback = 4
    found = sorted(
        (history[-lookback:], *rest)
        for batch in batches(0)
        for history, *rest in examples_of(batch)
    )
    assert found == sorted(expected_examples(PARTS, settings_of(), lookback))


def test_batches_take_no_more_positions_of_a_user_than_allowed():
    batches, _, labels = make(PARTS, max_positions_per_user=5)
    total = sum(np.count_nonzero(batch["weight"]) for batch in batches(0))
    assert total == np.minimum(np.bincount(labels.user), 5).sum()


def test_batches_draw_other_positions_each_epoch_and_reach_all():
    batches, _, labels = make(PARTS, max_positions_per_user=3)
    seen = set()
    for epoch in range(150):
        for batch in batches(epoch):
            seen |= {(example[0], example[1]) for example in examples_of(batch)}
    everything, _, _ = make(PARTS, max_positions_per_user=1000)
    all_pairs = {
        (history[-4:], label)
        for batch in everything(0)
        for history, label, *_ in examples_of(batch)
    }
    assert {(history[-4:], label) for history, label in seen} == all_pairs


def test_batches_of_an_epoch_repeat_exactly():
    first, _, _ = make(PARTS, loss="sampled_softmax")
    second, _, _ = make(PARTS, loss="sampled_softmax")
    for ours, theirs in zip(first(3), second(3), strict=True):
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            np.testing.assert_array_equal(values, theirs[name])


def test_batches_of_other_seeds_differ():
    first, _, _ = make(PARTS)
    second, _, _ = make(PARTS, seed=1)
    ours, theirs = next(iter(first(0))), next(iter(second(0)))
    assert any(not np.array_equal(ours[name], theirs[name]) for name in ours)


def test_batches_have_few_shapes_and_the_dtypes_of_the_model():
    batches, _, _ = make(PARTS)
    shapes, count = set(), 0
    for epoch in range(5):
        for batch in batches(epoch):
            count += 1
            shapes.add(batch["history"].shape + batch["labels"].shape)
            assert batch["history"].max() <= NUM_ITEMS
            assert (batch["positions"] <= batch["history"].shape[1]).all()
    assert len(shapes) <= 5 < count
    dtypes = {name: str(values.dtype) for name, values in batch.items()}
    assert dtypes == {
        "history": "int32",
        "positions": "int32",
        "labels": "int32",
        "weight": "float32",
        "search_tokens": "int32",
        "context": "int32",
        "age": "float32",
        "example_age": "float32",
    }


def test_batches_leave_out_inputs_that_are_not_used():
    batches, _, _ = make(PARTS, context=(), age=False, searches=False, example_age=False)
    batch = next(iter(batches(0)))
    assert batch.keys() == {"history", "positions", "labels", "weight"}


def test_batches_share_negatives_within_a_batch():
    batches, _, _ = make(PARTS, loss="sampled_softmax")
    drawn = [batch["negatives"] for batch in batches(0)]
    assert {values.shape for values in drawn} == {(7,)}
    assert len({tuple(values) for values in drawn}) > 1


@pytest.mark.parametrize("max_positions", [2, 50])
def test_num_batches_is_that_of_the_first_epoch(max_positions):
    batches, _, _ = make(PARTS, max_positions_per_user=max_positions)
    assert batches.num_batches() == len(list(batches(0)))


def test_no_labels_make_no_batches():
    settings = settings_of()
    sequences, labels = load(PARTS, settings)
    nothing = labels.take(np.zeros(0, np.int64))
    batches = TrainingBatches(sequences, nothing, settings, None, seed=0)
    assert list(batches(0)) == []
