"""Batches that follow the time, with what the crowd did as of each label."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.candidates.batches import TrainingBatches
from recsys.candidates.crowd import Crowd
from recsys.candidates.negatives import NegativeSampler, merge_repeated
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.successors import Successors
from recsys.data.examples import TRAINING
from tests.candidates.small_log import NUM_ITEMS, random_shard, settings_of

MINUTE = 60_000_000
SLOT = 60 * MINUTE


def timed_shard(seed):
    """Make a shard whose watches are 20 minutes apart, each user beginning at another time."""
    histories, examples = random_shard(8, seed=seed)
    first = np.random.default_rng(seed).integers(0, 300, 8) * MINUTE
    moment = first[examples.user] + examples.moment * 20 * MINUTE
    return replace(histories, moment=moment), replace(examples, moment=moment)


PARTS = [timed_shard(0), timed_shard(1)]


def make(**changes):
    settings = settings_of(
        **{
            "by_time": True,
            "loss": "sampled_softmax",
            "similarity": "cosine",
            "popularity_minutes": (60, 180),
            "successor_windows": (2,),
            "refresh_minutes": 60,
            "max_positions_per_user": 1000,
            "max_sequence_length": 1000,
            "windows": (1, 1000),
            "negatives": {"uniform": 4, "concurrent": 6},
            **changes,
        }
    )
    sequences = join_sequences(PARTS)
    labels = join_labels(PARTS, settings, split=TRAINING, num_trained=NUM_ITEMS)
    crowd = Crowd.of(sequences.histories, NUM_ITEMS, settings)
    sampler = NegativeSampler(settings.negatives, np.ones(NUM_ITEMS, np.int64))
    batches = TrainingBatches(sequences, labels, settings, sampler, crowd=crowd, seed=0)
    return list(batches(0)), sequences, labels, settings


def moments_of(batch, labels, sequences):
    """Return the moment of each real example, found by its history, as sets of candidates."""
    known = batch["positions"][batch["weight"] > 0]
    items = batch["labels"][batch["weight"] > 0]
    return [
        set(labels.moment[(labels.known_watches == k) & (labels.item == i)].tolist())
        for k, i in zip(known, items, strict=True)
    ]


def test_batches_come_in_the_order_of_their_slots_and_hold_every_label_once():
    batches, sequences, labels, _ = make()
    assert sum(int((batch["weight"] > 0).sum()) for batch in batches) == len(labels)
    slots = []
    for batch in batches:
        of_examples = [{m // SLOT for m in each} for each in moments_of(batch, labels, sequences)]
        shared = set.intersection(*of_examples)
        assert shared, "the labels of a batch lie in no common slot"
        slots.append(shared)
    latest = -1
    for shared in slots:
        assert max(shared) >= latest
        latest = max(latest, min(shared))


def test_popularity_of_a_batch_is_as_of_the_refresh_before_each_label():
    batches, sequences, labels, settings = make()
    histories = sequences.histories
    checked = 0
    for batch in batches:
        for example, moments in zip(
            np.argwhere(batch["weight"] > 0), moments_of(batch, labels, sequences), strict=True
        ):
            if len(moments) > 1:
                continue
            refresh = moments.pop() // SLOT * SLOT
            step = batch["popularity_step"][tuple(example)]
            for window, minutes in enumerate(settings.popularity_minutes):
                inside = histories.moment >= refresh - minutes * MINUTE
                inside &= histories.moment < refresh
                counts = np.bincount(histories.code[inside] - 1, minlength=NUM_ITEMS)
                found = batch["negative_popularity"][step, :, window]
                np.testing.assert_allclose(found, np.log1p(counts[batch["negatives"]]), rtol=1e-6)
                own = batch["label_popularity"][tuple(example)][window]
                label = batch["labels"][tuple(example)]
                assert own == pytest.approx(np.log1p(counts[label]), rel=1e-6)
                is_any = batch["negative_popularity"][step, :, 2 + window]
                np.testing.assert_array_equal(is_any, counts[batch["negatives"]] > 0)
            checked += 1
    assert checked > 50


def test_concurrent_negatives_are_watches_of_the_time():
    batches, _, labels, _ = make(negatives={"concurrent": 50})
    first = batches[0]
    start = labels.moment.min()
    early = set(labels.item[labels.moment < start + SLOT].tolist())
    assert set(first["negatives"].tolist()) <= early


def test_batches_are_the_same_for_the_same_epoch():
    first, second = make()[0], make()[0]
    for one, other in zip(first, second, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_successions_of_a_batch_are_as_of_the_refresh_before_each_label():
    batches, sequences, labels, settings = make(refresh_minutes=1)
    successors = Successors(sequences.histories, num_items=NUM_ITEMS, refresh_us=MINUTE)
    checked = 0
    for batch in batches:
        examples = np.argwhere(batch["weight"] > 0)
        of_examples = moments_of(batch, labels, sequences)
        for example, moments in zip(examples, of_examples, strict=True):
            known = batch["positions"][tuple(example)]
            if len(moments) > 1 or known == 0:
                continue
            last = batch["history"][example[0], known - 1 : known]
            newest = successors.newest(last, np.array([moments.pop()]), 2)[0]
            count = np.bincount(newest[newest > 0] - 1, minlength=NUM_ITEMS)
            row = example[0] * batch["labels"].shape[1] + example[1]
            is_real = batch["log_expected_counts"] < 1e8
            found = batch["negative_successions"][0, row, is_real]
            np.testing.assert_allclose(found, np.log1p(count[batch["negatives"][is_real]]))
            is_any = batch["negative_successions"][1, row, is_real]
            np.testing.assert_array_equal(is_any, count[batch["negatives"][is_real]] > 0)
            label = batch["labels"][tuple(example)]
            assert batch["label_successions"][tuple(example)][0] == pytest.approx(
                np.log1p(count[label])
            )
            checked += count.sum() > 0
    assert checked > 20


def test_merged_negatives_weigh_as_the_repeated_ones():
    items, log_expected = np.array([4, 2, 4, 4], np.int32), np.log(np.array([8, 3, 8, 8.0]))
    merged, log_merged = merge_repeated(items, log_expected.astype(np.float32))
    assert merged.shape == (4,)
    real = log_merged < 1e8
    assert sorted(merged[real].tolist()) == [2, 4]
    weight = dict(zip(merged[real].tolist(), np.exp(-log_merged[real]), strict=True))
    assert weight[4] == pytest.approx(3 / 8)
    assert weight[2] == pytest.approx(1 / 3)


def test_negatives_that_the_user_has_watched_are_marked():
    batches, sequences, labels, _ = make(seen_hidden=True, negatives={"uniform": 20})
    marked = 0
    for batch in batches:
        num_positions = batch["labels"].shape[1]
        for row, column in np.argwhere(batch["weight"] > 0):
            known = batch["positions"][row, column]
            seen = set((batch["history"][row, :known] - 1).tolist())
            expected = [item in seen for item in batch["negatives"].tolist()]
            found = batch["negative_is_hidden"][row * num_positions + column]
            assert found.tolist() == expected
            marked += sum(expected)
    assert marked > 100
    assert "negative_is_hidden" not in make()[0][0]


def test_what_is_seen_is_hidden_in_the_sampled_softmax_only():
    settings_of(seen_hidden=True, loss="sampled_softmax")
    with pytest.raises(ValueError, match="seen_hidden needs loss"):
        settings_of(seen_hidden=True)
