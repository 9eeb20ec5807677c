import numpy as np
import pytest

from recsys.ranking.batches import RankingBatches
from recsys.ranking.rows import RankingRows

NUM_ROWS, BATCH = 50, 16


@pytest.fixture
def rows():
    number = np.arange(NUM_ROWS)
    return RankingRows(
        features={"candidate_item": number[:, None], "candidate_bags": np.zeros((NUM_ROWS, 1, 0))},
        user=(number % 7).astype(np.int32),
        item=number,
        duration_ms=number,
        watch_ms=number * 1000,
        completed=(number % 3 - 1).astype(np.int8),
        split=np.zeros(NUM_ROWS, np.int8),
    )


def batches_of(rows, *, users_together=False, seed=1):
    chosen = np.arange(5, NUM_ROWS)
    return RankingBatches(
        rows,
        chosen,
        BATCH,
        mean_watch_seconds=2.0,
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


def test_labels_are_in_units_and_unknown_completion_has_no_weight(rows):
    found = next(iter(batches_of(rows)(0)))
    number = found["candidate_item"][:, 0]
    np.testing.assert_allclose(found["watch_time"], number / 2)
    np.testing.assert_array_equal(found["completed"], number % 3 == 2)
    np.testing.assert_array_equal(found["completed_weight"], number % 3 != 0)
