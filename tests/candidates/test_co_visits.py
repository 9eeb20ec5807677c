import math
from collections import Counter

import numpy as np
import pytest

from recsys.candidates.co_visits import count_co_visits
from recsys.data.timelines import WatchHistories


def histories(*users, moments=None):
    """Watches by user, as rows; each a moment later than the one before."""
    lengths = [len(user) for user in users]
    items = [item for user in users for item in user]
    times = moments or [place for length in lengths for place in range(length)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return WatchHistories(offsets, np.array(items, np.int32) + 1, np.array(times, np.int64))


def known(co_visits, item):
    rows, similarity = co_visits.rows[item], co_visits.similarity[item]
    return [(row, value) for row, value in zip(rows, similarity, strict=True) if row >= 0]


def test_pairs_within_reach_count_both_ways_and_popular_items_count_less():
    found = count_co_visits([histories([0, 1, 2], [0, 2], [2])], num_items=4, until=99)
    # 0 and 2 twice, 0 and 1 once, 1 and 2 once; watches 2, 1, 3.
    assert known(found, 0) == [
        (2, pytest.approx(2 / math.sqrt(2 * 3))),
        (1, pytest.approx(1 / math.sqrt(2 * 1))),
    ]
    assert [row for row, _ in known(found, 1)] == [0, 2]
    assert known(found, 3) == []


def test_far_watches_later_ones_and_the_item_itself_do_not_count():
    found = count_co_visits([histories([0, 3, 3, 3, 3, 1, 2])], num_items=4, until=6)
    assert {row for row, _ in known(found, 0)} == {1, 3}  # 2 is 6 apart, and not known yet
    assert all(row != 3 for row, _ in known(found, 3))
    assert known(found, 2) == []


def test_parts_count_as_one_log_and_as_a_slow_count_says():
    rng = np.random.default_rng(0)
    users = [rng.integers(0, 80, rng.integers(0, 30)).tolist() for _ in range(40)]
    whole = count_co_visits([histories(*users)], num_items=80, until=99)
    parts = count_co_visits(
        [histories(*users[:15]), histories(*users[15:])], num_items=80, until=99
    )
    np.testing.assert_array_equal(whole.rows, parts.rows)
    np.testing.assert_array_equal(whole.similarity, parts.similarity)
    watches = Counter(item for user in users for item in user)
    pairs = Counter()
    for user in users:
        for here, one in enumerate(user):
            for there in range(max(0, here - 5), min(len(user), here + 6)):
                if user[there] != one:
                    pairs[one, user[there]] += 1
    for item in range(80):
        expected = {
            other: count / math.sqrt(watches[item] * watches[other])
            for (one, other), count in pairs.items()
            if one == item
        }
        best = sorted(expected, key=lambda other: (-expected[other], other))[:50]
        assert [row for row, _ in known(whole, item)] == best
        np.testing.assert_allclose(
            [value for _, value in known(whole, item)], [expected[row] for row in best], rtol=1e-6
        )


def test_nobody_watched_anything():
    found = count_co_visits([histories()], num_items=3, until=9)
    assert (found.rows == -1).all()
    assert found.rows.shape == found.similarity.shape == (3, 50)
