import numpy as np

from recsys.exploration.batches import ExplorationBatches
from recsys.exploration.rows import context_rows, item_numeric
from tests.exploration.small_process import SPEC, make_rows

ROWS = make_rows()


def test_context_holds_what_was_known_strictly_before_newest_first():
    user = np.array([0, 0, 0, 0, 1])
    moment = np.array([10, 20, 30, 40, 40])
    known_at = np.array([15, 35, 30, 45, 41])
    found = context_rows(user, moment, known_at, 3)
    expected = [[-1, -1, -1], [0, -1, -1], [0, -1, -1], [1, 2, 0], [-1, -1, -1]]
    np.testing.assert_array_equal(found, expected)


def test_context_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    user, moment = rng.integers(0, 4, 60), rng.permutation(60)
    known_at = moment + rng.integers(0, 9, 60) * 100 + rng.permutation(60)
    order = rng.permutation(60)
    whole = context_rows(user, moment, known_at, 5)
    mixed = context_rows(user[order], moment[order], known_at[order], 5)
    np.testing.assert_array_equal(np.where(mixed < 0, -1, order[mixed]), whole[order])


def test_cut_keeps_the_newest():
    cut = ROWS.cut(2)
    np.testing.assert_array_equal(cut.context[:, :2], ROWS.context[:, :2])
    assert (cut.context[:, 2:] == -1).all()
    np.testing.assert_array_equal(cut.context_sizes(), np.minimum(ROWS.context_sizes(), 2))


def test_inputs_of_padding_are_not_known():
    inputs = ROWS.inputs(np.arange(9), ROWS.context[:9])
    np.testing.assert_array_equal(inputs["context_known"].sum(axis=1), ROWS.context_sizes()[:9])
    assert (inputs["context_outcome"][inputs["context_known"] == 0] == 0).all()


def test_inputs_hold_the_outcomes_of_the_context():
    inputs = ROWS.inputs(np.array([3]), ROWS.context[3:4])
    np.testing.assert_array_equal(ROWS.context[3, :3], [2, 1, 0])
    seconds = ROWS.watch_ms[[2, 1, 0]] / 1000
    np.testing.assert_allclose(inputs["context_outcome"][0, :3], np.log1p(seconds), rtol=1e-6)


def test_no_number_of_the_users_past_is_an_input():
    assert not [name for name in item_numeric(SPEC) if name.startswith(("user", "session"))]
    assert "item_watch_rate" in item_numeric(SPEC)


def batches(order="newest", seed=0, size=32):
    return ExplorationBatches(ROWS, np.arange(len(ROWS)), size, order=order, seed=seed)


def test_batches_of_an_epoch_are_always_the_same():
    for first, again in zip(batches()(1), batches()(1), strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], again[name])


def test_batches_of_two_seeds_differ():
    first, other = next(iter(batches(seed=0)(0))), next(iter(batches(seed=1)(0)))
    assert (first["outcome"] != other["outcome"]).any()


def test_every_row_comes_once_an_epoch():
    found = [batch["outcome"][batch["weight"] > 0] for batch in batches()(0)]
    assert len(found) == len(batches())
    np.testing.assert_allclose(np.sort(np.concatenate(found)), np.sort(ROWS.log_seconds))


def test_contexts_are_cut_to_every_size():
    sizes = set()
    for epoch in range(20):
        for batch in batches()(epoch):
            sizes |= set(batch["context_known"].sum(axis=1).astype(int).tolist())
    assert sizes == set(range(7))


def test_random_cuts_take_older_watches_too():
    is_newest = {}
    for order in ("newest", "random"):
        batch = next(iter(batches(order, size=72)(0)))
        row = [int(np.argmax(ROWS.log_seconds == outcome)) for outcome in batch["outcome"]]
        newest = np.log1p(ROWS.watch_ms[ROWS.context[row, 0]] / 1000).astype(np.float32)
        has_context = batch["context_known"][:, 0] > 0
        is_newest[order] = (batch["context_outcome"][:, 0] == newest)[has_context].all()
    assert is_newest == {"newest": True, "random": False}
