import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.counter_parts import spill, total_part
from recsys.data.counters import CountedEvents, counted_values, counters_as_of, total_counters

event = st.tuples(st.integers(-1, 4), st.integers(0, 8), st.integers(0, 4), st.integers(-1, 9))


def counted(rows):
    """Events of (item, moment, delay of the outcome, watch_ms); 5 ms are a watch and a click."""
    item, moment, delay, watch_ms = np.array(rows, np.int64).reshape(-1, 4).T
    shown = moment % 3 > 0
    values = counted_values(shown, watch_ms, watch_ms >= 5, np.where(watch_ms >= 5, 1, -1))
    return item, CountedEvents(moment, moment + delay, values)


def slow_counters(rows, key, now):
    totals = [0] * 5
    for item, moment, delay, watch_ms in rows:
        if item == key and moment < now:
            totals[0] += moment % 3 > 0
        if item == key and moment + delay < now and watch_ms >= 0:
            totals[1] += 1
            totals[2] += watch_ms >= 5
            totals[3] += watch_ms >= 5
            totals[4] += watch_ms
    return totals


def test_unknowns_add_nothing():
    columns = [True, False], [-1, 0], [False, True], [-1, 1]
    values = counted_values(*(np.array(column) for column in columns))
    assert values.tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 1, 0]]


@given(st.lists(event, max_size=25))
def test_counters_equal_slow_twin(rows):
    item, events = counted(rows)
    found = counters_as_of(events, item, item, events.moment)
    expected = [slow_counters(rows, key, moment) for key, moment, _, _ in rows]
    assert found.tolist() == expected


@given(st.lists(event, max_size=25), st.integers(0, 14))
def test_totals_equal_slow_twin(rows, until):
    rows = [row for row in rows if row[0] >= 0]
    item, events = counted(rows)
    expected = [slow_counters(rows, key, until) for key in range(5)]
    assert total_counters(events, item, 5, until).tolist() == expected


def test_parts_equal_whole(tmp_path):
    rng = np.random.default_rng(0)
    shards = [
        [
            (rng.integers(-1, 5), rng.integers(0, 50), rng.integers(0, 9), rng.integers(-1, 9))
            for _ in range(size)
        ]
        for size in (40, 0, 25)
    ]
    spilled = [tmp_path / f"spilled{number}" for number in range(3)]
    targets = [tmp_path / f"counters{number}.npy" for number in range(3)]
    whole_item, whole = counted([row for rows in shards for row in rows])
    expected = counters_as_of(whole, whole_item, whole_item, whole.moment)
    expected[whole_item < 0] = 0
    for rows, directory, target in zip(shards, spilled, targets, strict=True):
        item, events = counted(rows)
        queries = np.arange(0, len(rows), 2)
        spill(directory, events, item, queries, events.moment, num_parts=2)
        np.save(target, np.zeros((len(queries), 5), np.int64))
    for part in range(2):
        total_part(spilled, targets, part)
    assert np.load(targets[0]).tolist() == expected[0:40:2].tolist()
    assert np.load(targets[2]).tolist() == expected[40::2].tolist()
