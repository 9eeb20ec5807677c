"""Features that items share, as hashed codes."""

import pyarrow as pa
import pytest

from recsys.candidates.item_features import hashed_features
from recsys.errors import DataError
from tests.candidates.small_log import settings_of

ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "channel_id": ["x", "y", "x", None, None],
        "topics": pa.array([["news", "x"], [], ["news"], None, None], pa.list_(pa.string())),
        "title": ["Big CATS (1995)", "cats", None, None, None],
    }
)


def codes_of(**changes):
    found = hashed_features(ITEMS, settings_of(max_item_features=8, **changes))
    return [set(row[row > 0].tolist()) for row in found]


def test_items_share_codes_exactly_where_they_share_values():
    a, b, c, d, e = codes_of(item_categorical=["channel_id", "topics"], item_text=["title"])
    assert len(a) == 6  # channel x, topics news and x, words big, cats, 1995
    assert len(b) == 2
    assert len(a & b) == 1  # the word, whatever its case
    assert a & c == c
    assert len(c) == 2  # channel x and topic news
    assert not b & c


def test_items_that_tell_nothing_share_that_alone():
    a, _, _, d, e = codes_of(item_categorical=["channel_id"])
    assert d == e
    assert len(d) == 1
    assert not a & d


def test_codes_lie_within_the_table_and_few_are_kept():
    settings = settings_of(item_text=["title"], item_feature_buckets=2, max_item_features=2)
    found = hashed_features(ITEMS, settings)
    assert found.shape == (5, 2)
    assert found[:, 0].min() >= 1
    assert found.max() <= 2


def test_no_columns_are_no_features():
    assert hashed_features(ITEMS, settings_of()) is None


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="'genre'"):
        hashed_features(ITEMS, settings_of(item_categorical=["genre"]))
