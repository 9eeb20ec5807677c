import numpy as np

from recsys.exploration.batches import ExplorationBatches
from tests.exploration.small_process import make_rows

ROWS = make_rows()


def test_cut_keeps_the_newest():
    cut = ROWS.cut(2)
    np.testing.assert_array_equal(cut.context[:, :2], ROWS.context[:, :2])
    assert (cut.context[:, 2:] == -1).all()
    np.testing.assert_array_equal(cut.context_sizes(), np.minimum(ROWS.context_sizes(), 2))


def test_inputs_hold_the_outcomes_of_the_context():
    inputs = ROWS.inputs(np.array([3]), ROWS.context[3:4])
    np.testing.assert_array_equal(ROWS.context[3, :4], [2, 1, 0, -1])
    watch_ms = ROWS.impressions.watch_ms[[2, 1, 0]]
    np.testing.assert_allclose(
        inputs["context_outcome"][0, :3], np.log1p(watch_ms / 1000), rtol=1e-6
    )
    np.testing.assert_array_equal(inputs["context_is_watch"][0, :3], watch_ms > 20_000)


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
        newest_ms = ROWS.watches.at(ROWS.context[row, 0]).watch_ms
        newest = np.log1p(newest_ms / 1000).astype(np.float32)
        has_context = batch["context_known"][:, 0] > 0
        is_newest[order] = (batch["context_outcome"][:, 0] == newest)[has_context].all()
    assert is_newest == {"newest": True, "random": False}
