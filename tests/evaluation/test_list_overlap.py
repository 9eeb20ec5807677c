import numpy as np
import pytest

from recsys.evaluation.list_overlap import jaccard, rank_biased_overlap

FIRST = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [7, -1, -1], [-1, -1, -1]])
SECOND = np.array([[1, 2, 3], [3, 2, 1], [1, 4, 5], [7, -1, -1], [-1, -1, -1]])


def test_jaccard_counts_shared_items_over_all():
    np.testing.assert_allclose(jaccard(FIRST, SECOND, 3), [1, 1, 1 / 5, 1, 1])
    # The first place alone; then the first two: {1, 2} and {3, 2}, {1, 2} and {1, 4}.
    np.testing.assert_allclose(jaccard(FIRST, SECOND, 1), [1, 0, 1, 1, 1])
    np.testing.assert_allclose(jaccard(FIRST, SECOND, 2), [1, 1 / 3, 1 / 3, 1, 1])


def test_padding_is_no_shared_item():
    assert jaccard(np.array([[1, -1]]), np.array([[2, -1]]), 2).tolist() == [0]


def test_rank_biased_overlap_weighs_agreement_by_depth():
    # Agreements of depth 1, 2, 3 under weights 1, 1/2, 1/4.
    reversed_list = (0 * 1 + 1 / 2 * 1 / 2 + 1 * 1 / 4) / 1.75
    one_shared = (1 + 1 / 2 * 1 / 2 + 1 / 3 * 1 / 4) / 1.75
    found = rank_biased_overlap(FIRST, SECOND, 0.5)
    np.testing.assert_allclose(found, [1, reversed_list, one_shared, 1, 1])


def test_the_shorter_list_is_compared_with_the_longer():
    found = rank_biased_overlap(np.array([[1, -1]]), np.array([[1, 2]]), 0.5)
    np.testing.assert_allclose(found, [(1 + 1 / 2 * 1 / 2) / 1.5])


def test_both_are_symmetric_and_do_not_depend_on_the_numbers(monkeypatch):
    monkeypatch.setattr("recsys.evaluation.list_overlap.CHUNK", 7)
    rng = np.random.default_rng(0)
    first, second = (np.argsort(rng.random((30, 20)), axis=1)[:, :8] for _ in range(2))
    renamed = rng.permutation(20)
    for measure in (
        lambda a, b: jaccard(a, b, 5),
        lambda a, b: rank_biased_overlap(a, b, 0.9),
    ):
        found = measure(first, second)
        np.testing.assert_allclose(found, measure(second, first))
        np.testing.assert_allclose(found, measure(renamed[first], renamed[second]))
        slow = [measure(first[[q]], second[[q]])[0] for q in range(30)]
        np.testing.assert_allclose(found, slow)
        assert 0 <= found.min() < found.max() <= 1


@pytest.mark.parametrize("measure", [jaccard, rank_biased_overlap])
def test_no_queries_give_no_values(measure):
    nothing = np.zeros((0, 3), int)
    assert len(measure(nothing, nothing, 1 if measure is jaccard else 0.5)) == 0
