import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.as_of import AsOf

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=20)


def as_of(events, queries):
    keys, moments = np.array(events, np.int64).reshape(-1, 2).T
    query_keys, query_moments = np.array(queries, np.int64).reshape(-1, 2).T
    return AsOf(keys, moments, query_keys, query_moments)


def test_counts_events_strictly_before():
    found = as_of([(7, 10), (7, 20), (8, 10)], [(7, 9), (7, 10), (7, 11), (7, 99), (8, 20), (9, 5)])
    assert found.counts().tolist() == [0, 0, 1, 2, 1, 0]


def test_last_gives_newest_seen_value():
    found = as_of([(1, 20), (1, 10)], [(1, 15), (1, 25), (1, 10)])
    assert found.last(np.array([200, 100]), missing=-1).tolist() == [100, 200, -1]


def test_no_events_give_zero():
    found = as_of([], [(1, 5)])
    assert found.counts().tolist() == [0]
    assert found.sums(np.zeros((0, 2), np.int64)).tolist() == [[0, 0]]


@given(pairs, pairs)
def test_sums_equal_slow_twin(events, queries):
    values = np.arange(1, len(events) + 1) ** 2
    expected = [
        sum(
            int(value)
            for value, (key, moment) in zip(values, events, strict=True)
            if key == query_key and moment < query_moment
        )
        for query_key, query_moment in queries
    ]
    assert as_of(events, queries).sums(values).tolist() == expected
