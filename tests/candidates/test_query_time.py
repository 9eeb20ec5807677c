"""The moment of a request as inputs of the net."""

import numpy as np

from recsys.candidates.query_time import minutes_since_watch, query_time
from recsys.data.timelines import WatchHistories

MINUTE = 60_000_000
DAY = 24 * 60 * MINUTE
HISTORIES = WatchHistories(
    np.array([0, 3, 4, 4]),
    np.array([1, 2, 3, 4], np.int32),
    np.array([0, 10, 15, 7]) * MINUTE,
)


def test_query_time_turns_once_a_day_and_once_a_week():
    moments = np.array([0, DAY // 4, 7 * DAY])
    columns = query_time(moments, np.array([True, True, True]))
    np.testing.assert_allclose(columns[0], [0, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(columns[1, [0, 2]], [1, 0], atol=1e-6)
    np.testing.assert_allclose(columns[2], columns[0], atol=1e-5)
    assert (query_time(moments, np.zeros(3, bool)) == 0).all()


def test_minutes_count_from_the_newest_known_watch():
    users, known = np.array([0, 0, 0, 1]), np.array([1, 2, 3, 1])
    moment = np.array([1, 12, 45, 7]) * MINUTE + MINUTE // 2
    found = minutes_since_watch(HISTORIES, users, known, moment, np.ones(4, bool))
    assert found.tolist() == [1.5, 2.5, 30.5, 0.5]


def test_minutes_are_unknown_without_a_watch_or_a_time():
    users, known = np.array([[0, 1], [2, 0]]), np.array([[0, 1], [0, 3]])
    has_time = np.array([[True, False], [True, True]])
    found = minutes_since_watch(HISTORIES, users, known, np.full((2, 2), 20 * MINUTE), has_time)
    assert np.isnan(found).tolist() == [[True, True], [True, False]]
    assert found[1, 1] == 5


def test_newest_watch_of_users():
    users, known = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 3, 0, 1, 0])
    assert HISTORIES.newest_code(users, known).tolist() == [0, 1, 3, 0, 4, 0]
    assert HISTORIES.newest_moment(users, known).tolist() == [0, 0, 15 * MINUTE, 0, 7 * MINUTE, 0]
    nobody = WatchHistories(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))
    assert nobody.newest_code(np.array([0]), np.array([0])).tolist() == [0]
