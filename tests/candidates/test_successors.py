"""What followed an item, as of the last refresh."""

import numpy as np
import pytest

from recsys.candidates.successors import (
    MAX_GAP_US,
    Successors,
    count_successors,
)
from recsys.data.timelines import WatchHistories

MINUTE = 60_000_000


def histories_of(users):
    """Make histories of [(code, moment), ...] for each user."""
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])])
    code, moment = np.array([pair for user in users for pair in user], np.int64).T
    return WatchHistories(offsets, code.astype(np.int32), moment)


def random_histories(rng, num_users=20, num_items=5):
    return histories_of(
        [
            [
                (int(rng.integers(1, num_items + 1)), int(moment))
                for moment in np.sort(rng.integers(0, 200 * MINUTE, rng.integers(1, 30)))
            ]
            for _ in range(num_users)
        ]
    )


def slow_successors(histories, code, until, length):
    """Go through all users and note what followed the item before a moment."""
    found = []
    for user in range(len(histories.offsets) - 1):
        own = range(histories.offsets[user], histories.offsets[user + 1])
        for first, second in zip(own, own[1:], strict=False):
            gap = histories.moment[second] - histories.moment[first]
            if histories.code[first] == code and gap <= MAX_GAP_US:
                found.append((int(histories.moment[second]), int(histories.code[second])))
    known = [entry for entry in found if entry[0] < until]
    return sorted(known)[-length:]


@pytest.mark.parametrize("refresh", [1, 60 * MINUTE])
def test_newest_equals_a_slow_twin(refresh):
    rng = np.random.default_rng(0)
    histories = random_histories(rng)
    successors = Successors(histories, num_items=5, refresh_us=refresh)
    codes = rng.integers(1, 6, 60).astype(np.int32)
    moments = rng.integers(0, 210 * MINUTE, 60)
    found = successors.newest(codes, moments, 4)
    for row, code, moment in zip(found, codes, moments, strict=True):
        expected = slow_successors(histories, code, moment // refresh * refresh, 4)
        codes_found = row[row > 0].tolist()
        assert sorted(codes_found) == sorted(code for _, code in expected)
        assert (row[len(codes_found) :] == 0).all()


def test_a_watch_does_not_see_itself_follow():
    histories = histories_of([[(1, 0), (2, 5 * MINUTE)]])
    successors = Successors(histories, num_items=2, refresh_us=1)
    ask = np.array([1], np.int32)
    assert successors.newest(ask, np.array([5 * MINUTE]), 2).tolist() == [[0, 0]]
    assert successors.newest(ask, np.array([5 * MINUTE + 1]), 2).tolist() == [[2, 0]]


def test_a_long_pause_or_another_user_is_no_succession():
    histories = histories_of([[(1, 0), (2, MAX_GAP_US + 1)], [(3, MAX_GAP_US + 2)]])
    successors = Successors(histories, num_items=3, refresh_us=1)
    found = successors.newest(np.array([1, 2, 3]), np.full(3, 10 * MAX_GAP_US), 2)
    assert (found == 0).all()


def test_nobody_follows_no_item():
    histories = histories_of([[(1, 0), (2, 1)]])
    successors = Successors(histories, num_items=2, refresh_us=1)
    assert successors.newest(np.array([0]), np.array([99]), 3).tolist() == [[0, 0, 0]]


def test_counts_are_those_among_the_newest_of_each_window():
    successors = np.array([[7, 3, 3, 7, 0], [0, 0, 0, 0, 0], [5, 5, 5, 5, 5]], np.int32)
    counts = count_successors(successors, (2, 5))
    assert counts.query.tolist() == [0, 0, 2]
    assert counts.code.tolist() == [3, 7, 5]
    found = np.expm1(counts.columns[:, :2])
    np.testing.assert_allclose(found, [[1, 2], [1, 2], [2, 5]], rtol=1e-6)
    assert (counts.columns[:, 2:] == 1).all()


def test_a_successor_older_than_a_window_is_none_of_it():
    counts = count_successors(np.array([[4, 9, 9]], np.int32), (2, 3))
    assert counts.code.tolist() == [4, 9]
    assert counts.columns[:, 2:].tolist() == [[0, 1], [1, 1]]


def test_no_successors_count_nothing():
    counts = count_successors(np.zeros((3, 4), np.int32), (1, 4))
    assert len(counts.query) == 0
    assert counts.columns.shape == (0, 4)
