import numpy as np

from recsys.live_counters import LiveCounters

CHANNEL = np.array([1, 0, 1, -1], np.int32)
COUNTS = np.arange(20, dtype=np.int64).reshape(4, 5)


def test_channel_counts_the_sum_of_its_items():
    counters = LiveCounters(COUNTS, CHANNEL, 2)
    np.testing.assert_array_equal(counters.of_items(np.array([[2, 1]])), COUNTS[[[2, 1]]])
    np.testing.assert_array_equal(
        counters.of_channels(np.array([0, 2])), [COUNTS[0] + COUNTS[2]] * 2
    )
    np.testing.assert_array_equal(counters.of_channels(np.array([1, 3])), [COUNTS[1], np.zeros(5)])


def test_unknown_row_counts_nothing():
    counters = LiveCounters(COUNTS, CHANNEL, 2)
    counters.add(np.array([-1]), np.ones((1, 5), np.int64))
    assert counters.of_items(np.array([-1])).sum() == 0
    assert counters.of_channels(np.array([-1])).sum() == 0
    assert counters.of_items(np.arange(4)).sum() == COUNTS.sum()


def test_added_events_count_for_item_and_channel_also_when_repeated():
    counters = LiveCounters(COUNTS, CHANNEL, 2)
    counters.add(np.array([0, 0, 3]), np.array([[1, 0, 0, 0, 7]] * 3))
    np.testing.assert_array_equal(counters.of_items(np.array([0]))[0] - COUNTS[0], [2, 0, 0, 0, 14])
    np.testing.assert_array_equal(
        counters.of_channels(np.array([2]))[0] - COUNTS[0] - COUNTS[2], [2, 0, 0, 0, 14]
    )
    np.testing.assert_array_equal(counters.of_items(np.array([3]))[0] - COUNTS[3], [1, 0, 0, 0, 7])


def test_given_counters_stay_as_they_were():
    counts = COUNTS.copy()
    LiveCounters(counts, CHANNEL, 2).add(np.array([0]), np.ones((1, 5), np.int64))
    np.testing.assert_array_equal(counts, COUNTS)


def test_counters_taken_over_replace_what_was_added():
    counters, fresh = (LiveCounters(COUNTS, CHANNEL, 2) for _ in range(2))
    counters.add(np.array([0]), np.ones((1, 5), np.int64))
    fresh.add(np.array([1]), np.ones((1, 5), np.int64))
    counters.take_over(fresh)
    counters.add(np.array([1]), np.ones((1, 5), np.int64))
    np.testing.assert_array_equal(counters.of_items(np.array([0, 1])), COUNTS[:2] + [[0], [2]])
    expected = LiveCounters(COUNTS + np.array([[0], [2], [0], [0]]), CHANNEL, 2)
    rows = np.arange(4)
    np.testing.assert_array_equal(counters.of_channels(rows), expected.of_channels(rows))
