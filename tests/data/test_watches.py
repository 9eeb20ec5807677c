import numpy as np
import pytest

from recsys.data.watches import positive_watches
from recsys.settings import WatchRule


def is_watch(rule, watch_ms, duration_ms=-1, label=-1):
    columns = np.array([watch_ms]), np.array([duration_ms]), np.array([label], np.int8)
    return bool(positive_watches(rule, *columns)[0])


@pytest.mark.parametrize(("watch_ms", "expected"), [(999, False), (1000, True), (0, False)])
def test_long_enough_is_a_watch(watch_ms, expected):
    assert is_watch(WatchRule(min_ms=1000), watch_ms) is expected


@pytest.mark.parametrize(
    ("watch_ms", "duration_ms", "expected"),
    [(50, 100, True), (49, 100, False), (9000, 10**9, True), (50, 0, False), (50, -1, False)],
)
def test_share_of_a_known_duration_is_a_watch_too(watch_ms, duration_ms, expected):
    rule = WatchRule(min_ms=9000, min_fraction=0.5)
    assert is_watch(rule, watch_ms, duration_ms) is expected


@pytest.mark.parametrize("unknown_is_watch", [True, False])
def test_unknown_watch_time_follows_the_setting(unknown_is_watch):
    rule = WatchRule(min_ms=0, unknown_is_watch=unknown_is_watch)
    assert is_watch(rule, -1) is unknown_is_watch
    assert is_watch(rule, 0)


@pytest.mark.parametrize(("label", "watch_ms"), [(1, 0), (0, 10**6), (0, -1)])
def test_given_label_decides(label, watch_ms):
    rule = WatchRule(column="long_view", unknown_is_watch=True)
    assert is_watch(rule, watch_ms, label=label) is bool(label)
