import dataclasses

import numpy as np
import pytest

from recsys.ranking.batches import RankingBatches
from recsys.ranking.heads import Heads
from recsys.ranking.rows import RankingRows
from recsys.ranking.spec import FeatureSpec, Priors

NUM_ROWS, BATCH = 50, 16
HEADS = Heads(("expected", "median", "completion"), 2.0, (), (), ())
SPEC = FeatureSpec(
    user_categorical={},
    item_categorical={},
    item_bags={},
    bias_categorical={},
    user_numeric=(),
    item_numeric=("height", "duration_seconds"),
    num_item_codes=2,
    history_length=1,
    recent_length=0,
    retrieval_trained=False,
    priors=Priors(0.5, 1.0, 0.5),
)


@pytest.fixture
def rows():
    number = np.arange(NUM_ROWS)
    seconds = np.where(number % 5 == 0, np.nan, number)
    return RankingRows(
        features={
            "candidate_item": number[:, None],
            "candidate_bags": np.zeros((NUM_ROWS, 1, 0)),
            "candidate_numeric": np.stack([0 * seconds, seconds], -1)[:, None].astype(np.float32),
        },
        user=(number % 7).astype(np.int32),
        item=number,
        duration_ms=number,
        watch_ms=number * 1000,
        completed=(number % 3 - 1).astype(np.int8),
        clicked=(number % 4 - 1).clip(max=1).astype(np.int8),
        liked=np.full(NUM_ROWS, -1, np.int8),
        split=np.zeros(NUM_ROWS, np.int8),
    )


def batches_of(rows, *, users_together=False, seed=1, heads=HEADS):
    chosen = np.arange(5, NUM_ROWS)
    return RankingBatches(
        rows,
        chosen,
        BATCH,
        heads=heads,
        spec=SPEC,
        users_together=users_together,
        seed=seed,
    )


def joined(batches, name):
    batches = list(batches)
    weight = np.concatenate([batch["weight"] for batch in batches])
    return np.concatenate([batch[name] for batch in batches])[weight > 0]


def test_epoch_has_every_chosen_row_once(rows):
    found = joined(batches_of(rows)(0), "candidate_item")[:, 0]
    assert sorted(found) == list(range(5, NUM_ROWS))


def test_batches_have_one_shape_and_padding_no_weight(rows):
    batches = batches_of(rows)
    found = list(batches(0))
    assert len(found) == len(batches) == 3
    assert {batch["candidate_item"].shape for batch in found} == {(BATCH, 1)}
    assert [batch["weight"].sum() for batch in found] == [16, 16, 13]
    assert set(np.concatenate([batch["weight"] for batch in found])) == {0, 1}


def test_inputs_without_columns_are_left_out(rows):
    assert "candidate_bags" not in next(iter(batches_of(rows)(0)))


def test_order_depends_on_epoch_and_seed_only(rows):
    first = joined(batches_of(rows)(0), "user")
    np.testing.assert_array_equal(joined(batches_of(rows)(0), "user"), first)
    assert (joined(batches_of(rows)(1), "user") != first).any()
    assert (joined(batches_of(rows, seed=2)(0), "user") != first).any()


def test_rows_of_a_user_are_neighbours_where_asked_for(rows):
    for epoch in range(3):
        user = joined(batches_of(rows, users_together=True)(epoch), "user")
        assert np.count_nonzero(np.diff(user)) == 6
    first = joined(batches_of(rows, users_together=True)(0), "candidate_item")
    second = joined(batches_of(rows, users_together=True)(1), "candidate_item")
    assert (first != second).any()


def test_watch_times_are_in_units(rows):
    found = next(iter(batches_of(rows)(0)))
    np.testing.assert_allclose(found["watch_time"], found["candidate_item"][:, 0] / 2)


def test_labels_are_1_or_0_and_have_no_weight_where_unknown(rows):
    found = next(iter(batches_of(rows)(0)))
    number = found["candidate_item"][:, 0]
    np.testing.assert_array_equal(found["completed"], number % 3 == 2)
    np.testing.assert_array_equal(found["completed_weight"], number % 3 != 0)
    np.testing.assert_array_equal(found["clicked"], number % 4 >= 2)
    np.testing.assert_array_equal(found["clicked_weight"], number % 4 != 0)
    assert not (found["liked"].any() or found["liked_weight"].any())


def test_percentile_is_that_of_the_row_in_its_group(rows):
    # Durations from 20 s on are watched for twice as long as others, unknown ones thrice.
    times = tuple(tuple(scale * np.arange(101.0)) for scale in (3, 1, 2))
    names = ("expected", "median", "completion", "percentile")
    heads = dataclasses.replace(
        HEADS, names=names, group_edges_seconds=(20.0,), group_seconds=times
    )
    for batch in batches_of(rows, heads=heads)(0):
        number = batch["candidate_item"][batch["weight"] > 0, 0]
        scale = np.where(number % 5 == 0, 3, np.where(number < 20, 1, 2))
        found = batch["percentile"][: len(number)]
        assert found.dtype == np.float32
        np.testing.assert_allclose(100 * found, number / scale, atol=0.51)
        whole = number % scale == 0
        np.testing.assert_allclose(100 * found[whole], (number / scale)[whole], rtol=1e-5)


def test_percentiles_are_made_for_their_head_alone(rows):
    assert "percentile" not in next(iter(batches_of(rows)(0)))
