import numpy as np
import pyarrow as pa
import pytest

from recsys.data.moments import Moments, event_moments
from recsys.data.splits import last_of_session, leave_one_out, sessions, split_by_time
from recsys.errors import ConfigError, DataError
from recsys.settings import SplitSettings

MINUTE = 60_000_000


def timed(moments):
    event = np.array(moments, np.int64)
    return Moments(event, event, np.ones(len(event), bool))


def test_leave_one_out_takes_the_last_two_watches():
    is_watch = np.array([1, 0, 1, 0, 1, 0, 1, 1], bool)
    split = leave_one_out(np.array([0, 6, 8]), is_watch)
    assert split.tolist() == [0, 0, 1, 1, 2, 2, 0, 0]


def test_leave_one_out_only_trains_on_users_of_two_watches():
    assert leave_one_out(np.array([0, 2, 2, 5]), np.ones(5, bool)).tolist() == [0, 0, 0, 1, 2]


def test_time_cuts_begin_at_their_moment():
    settings = SplitSettings(
        kind="time",
        validation_from="1970-01-01T00:01:00",
        test_from="1970-01-01T00:02:00Z",
        test_until="1970-01-01T01:03:00+01:00",
    )
    moments = timed([0, MINUTE - 1, MINUTE, 2 * MINUTE - 1, 2 * MINUTE, 3 * MINUTE - 1, 3 * MINUTE])
    split = split_by_time(settings, pa.table({}), moments)
    assert split.tolist() == [0, 0, 1, 1, 2, 2, -1]


def test_dates_are_those_of_the_log_and_order_only_events_train():
    events = pa.table(
        {
            "event_time": pa.array([5, 5, 5, 5, None], pa.timestamp("us", "UTC")),
            "sequence": pa.array([None, None, None, None, 9], pa.int64()),
            "split_date": ["20220429", "20220430", "20220501", "20220505", None],
        }
    )
    settings = SplitSettings(
        kind="time", validation_from="20220430", test_from="20220501", test_until="20220505"
    )
    assert split_by_time(settings, events, event_moments(events)).tolist() == [0, 1, 2, -1, 0]


@pytest.mark.parametrize(
    ("error", "cuts"),
    [
        (DataError, {"test_from": "20220501"}),
        (ConfigError, {"validation_from": "20220501", "test_from": "2022-05-02"}),
        (ConfigError, {"test_from": "last Tuesday"}),
        (ConfigError, {"validation_from": "2022-05-02", "test_from": "2022-05-01"}),
    ],
)
def test_wrong_cuts_are_refused(error, cuts):
    with pytest.raises(error, match=r"split"):
        split_by_time(SplitSettings(kind="time", **cuts), pa.table({}), timed([1]))


def test_sessions_by_id_then_request_then_pause():
    moments = timed([0, 1, 2, 2 * MINUTE, 40 * MINUTE, 41 * MINUTE, 41 * MINUTE])
    session = np.array([3, 4, 3, -1, -1, -1, -1])
    request = np.array([-1, -1, 4, 4, -1, -1, -1])
    number = sessions(np.array([0, 6, 7]), moments, session, request)
    assert number[0] == number[2]
    assert number[4] == number[5]
    assert len(set(number.tolist())) == 5


def test_pause_of_thirty_minutes_is_within_a_session():
    none = np.full(3, -1)
    number = sessions(np.array([0, 3]), timed([0, 30 * MINUTE, 60 * MINUTE + 1]), none, none)
    assert number[0] == number[1] != number[2]


def test_last_of_session_needs_two_watches():
    session = np.array([7, 8, 7, 9, 7, 9])
    assert last_of_session(session).tolist() == [False, False, False, False, True, True]
    assert last_of_session(np.zeros(0, np.int64)).tolist() == []
