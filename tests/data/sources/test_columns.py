import pyarrow as pa
import pytest

from recsys.data.sources.columns import (
    conform,
    flags,
    integers_to_text,
    split_text,
    whole_numbers_to_text,
)


def column(values, kind=None):
    return pa.chunked_array([values], kind)


def test_codes_written_as_floats_become_text_and_nan_null():
    found = whole_numbers_to_text(column([3.0, float("nan"), None]))
    assert found.to_pylist() == ["3", None, None]


def test_codes_that_are_all_null_stay_null():
    assert whole_numbers_to_text(column([None], pa.null())).to_pylist() == [None]


def test_only_integers_become_text():
    assert integers_to_text(column([7, None])).to_pylist() == ["7", None]
    assert integers_to_text(column([7.0])).type == pa.float64()


def test_flags_keep_null():
    assert flags(column([0, 1, None])).to_pylist() == [False, True, None]


@pytest.mark.parametrize("separator", ["|", ",", "."])
def test_text_is_split_at_the_separator_itself(separator):
    text = column([f"a {separator} b", "ab", " ", None])
    assert split_text(text, separator).to_pylist() == [["a", "b"], ["ab"], None, None]


def test_conformed_table_has_exactly_the_wanted_columns():
    wanted = pa.schema([("a", pa.string()), ("b", pa.int64())])
    found = conform(pa.table({"b": pa.array([1], pa.int32()), "c": [2]}), wanted)
    assert found.to_pylist() == [{"a": None, "b": 1}]
    assert found.schema.field("b").type == pa.int64()
