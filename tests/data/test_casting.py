import numpy as np
import pyarrow as pa
import pytest

from recsys.data.casting import MistypedError, cast_column

TIME = pa.timestamp("us", tz="UTC")


def cast(values, expected, kind=None, *, is_text=False):
    column, bad = cast_column(pa.chunked_array([values], kind), expected, is_text=is_text)
    assert column.type == expected
    return column.to_pylist(), [] if bad is None else np.flatnonzero(bad).tolist()


def test_whole_floats_are_integers_and_fractions_are_not():
    assert cast([1.0, None, 2.5, float("nan")], pa.int64()) == ([1, None, None, None], [2])


def test_float_beyond_int64_does_not_fit():
    assert cast([2.0**63, -(2.0**63), float("inf")], pa.int64()) == (
        [None, -(2**63), None],
        [0, 2],
    )


def test_integer_beyond_the_narrower_type_does_not_fit():
    assert cast([32767, 32768, -32769], pa.int16(), pa.int64()) == ([32767, None, None], [1, 2])
    assert cast([5, 2**64 - 1], pa.int64(), pa.uint64()) == ([5, None], [1])


def test_zero_and_one_are_flags_and_two_is_not():
    assert cast([0, 1, 2, None], pa.bool_()) == ([False, True, None, None], [2])


def test_text_is_parsed_value_by_value():
    values = ["12", "x", None, "12.0", "1.5", " "]
    assert cast(values, pa.int64(), is_text=True) == ([12, None, None, 12, None, None], [1, 4, 5])


def test_text_times_need_a_zone():
    values = ["2026-01-01T00:00:00Z", "2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00", "soon"]
    (first, second, *rest), bad = cast(values, TIME, is_text=True)
    assert first == second
    assert (rest, bad) == ([None, None], [2, 3])


def test_nanoseconds_are_cut_to_microseconds():
    found, bad = cast([1_500], TIME, pa.timestamp("ns", tz="UTC"))
    assert (found[0].microsecond, bad) == (1, [])


def test_year_that_no_calendar_holds_does_not_fit():
    found, bad = cast([2**62, 0], TIME, pa.timestamp("s", tz="UTC"))
    assert (found[0], bad) == (None, [0])
    assert cast([2**62], TIME, TIME)[1] == [0]


def test_other_zone_is_the_same_instant():
    eight = pa.array([0], pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us", tz="Asia/Shanghai"))
    assert cast(eight, TIME)[0][0].timestamp() == 0


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_other_strings_are_strings(kind):
    assert cast(["007", None], pa.string(), kind) == (["007", None], [])


def test_all_null_column_takes_any_type():
    assert cast([None, None], pa.list_(pa.string()), pa.null()) == ([None, None], [])


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([7.0], pa.float64(), pa.string()),
        ([7], pa.int64(), pa.string()),
        ([7], pa.int64(), TIME),
        ([0], pa.timestamp("us"), TIME),
        (["7"], pa.string(), pa.int64()),
        (["yes"], pa.string(), pa.bool_()),
        (["7"], pa.string(), pa.float32()),
        (["a|b"], pa.string(), pa.list_(pa.string())),
        ([[1]], pa.list_(pa.int64()), pa.list_(pa.string())),
        ([True], pa.bool_(), pa.string()),
    ],
)
def test_type_to_be_guessed_at_is_refused(values, kind, expected):
    with pytest.raises(MistypedError):
        cast_column(pa.chunked_array([values], kind), expected, is_text=False)
