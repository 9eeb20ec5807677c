import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.catalogue import Catalogue
from recsys.data.vocabulary import Vocabulary
from recsys.ranking.items import MAX_BAG_LENGTH, ItemFeatures
from recsys.settings import RankingSettings

SETTINGS = RankingSettings(item_categorical=("kind", "topics"), item_numeric=("height",))


@pytest.fixture
def catalogue():
    table = pa.table(
        {
            "item_id": ["a", "b", "c", "d"],
            "channel_id": ["x", "y", "x", None],
            "topics": pa.array([["s", "t"], [], None, ["t", "new", "s"]]),
            "duration_ms": pa.array([5000, 0, None, 7], pa.int64()),
            "upload_time": pa.array([0, None, 3_000_000, 1], pa.timestamp("us", "UTC")),
            "kind": [7.0, 9.0, None, 8.0],
            "height": [1, 2, None, 4],
        }
    )
    vocabulary = Vocabulary.from_ids(["a", "b", "c", "d"])
    return Catalogue(vocabulary, table, np.array([4, 3, 0, 0]), num_trained=2)


@pytest.fixture
def items(catalogue):
    vocabularies = {
        "kind": Vocabulary.from_ids(["9", "7"]),
        "topics": Vocabulary.from_ids(["t", "s"]),
    }
    return ItemFeatures.build(catalogue, vocabularies, SETTINGS)


def test_only_trained_items_have_a_code(items):
    assert items.code.tolist() == [1, 2, 0, 0]


def test_columns_are_codes_of_their_vocabulary(items):
    assert items.codes["kind"].tolist() == [2, 1, 0, 0]
    assert items.codes["topics"].tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 2]]


def test_topics_out_of_the_vocabulary_are_still_told_apart(items):
    assert items.num_topics == 3
    assert len(set(items.topics[3].tolist())) == 3
    assert items.topics[1].tolist() == [-1, -1, -1]
    assert set(items.topics[0, :2].tolist()) == {items.topics[3, 0], items.topics[3, 2]}


def test_items_of_one_channel_share_its_number(items):
    assert items.channel[0] == items.channel[2] != items.channel[1]
    assert items.channel[3] == -1
    assert items.num_channels == 2


def test_what_is_not_known_is_minus_one_or_nan(items):
    assert items.duration_ms.tolist() == [5000, -1, -1, 7]
    assert items.upload_time.tolist() == [0, -1, 3_000_000, 1]
    np.testing.assert_array_equal(items.numeric["height"], np.float32([1, 2, np.nan, 4]))


def test_columns_that_the_log_lacks_are_unknown(catalogue):
    table = catalogue.table.select(["item_id"])
    bare = Catalogue(catalogue.vocabulary, table, catalogue.watch_counts, 2)
    items = ItemFeatures.build(bare, {}, RankingSettings())
    assert items.num_channels == items.num_topics == 0
    assert set(items.channel) == set(items.topics.ravel()) == set(items.duration_ms) == {-1}


def test_bag_keeps_a_bounded_number_of_values(catalogue):
    topics = pa.array([[f"t{number}" for number in range(100)]] * 4)
    table = pa.table({"item_id": ["a", "b", "c", "d"], "topics": topics})
    crowded = Catalogue(catalogue.vocabulary, table, catalogue.watch_counts, 2)
    assert ItemFeatures.build(crowded, {}, RankingSettings()).topics.shape == (4, MAX_BAG_LENGTH)


def test_codes_of_rows_are_those_of_their_items_and_zero_for_none(items):
    rows = np.array([[0, -1, 3], [1, 0, -1]])
    found = items.codes_of(rows, ["kind"], ["topics"])
    assert found["item"].tolist() == [[1, 0, 0], [2, 1, 0]]
    assert found["categorical"].tolist() == [[[2], [0], [0]], [[1], [2], [0]]]
    topics = {0: [2, 1, 0], 1: [0, 0, 0], 3: [1, 0, 2], -1: [0, 0, 0]}
    assert found["bags"].tolist() == [[[topics[row]] for row in own] for own in rows.tolist()]
    assert {values.dtype for values in found.values()} == {np.dtype(np.int32)}


def test_bags_are_padded_to_the_longest(items):
    longer = np.arange(20, dtype=np.int32).reshape(4, 5)
    crowded = dataclasses.replace(items, codes=items.codes | {"tags": longer})
    found = crowded.codes_of(np.array([3, 0]), [], ["topics", "tags"])
    assert found["bags"].tolist() == [
        [[1, 0, 2, 0, 0], [15, 16, 17, 18, 19]],
        [[2, 1, 0, 0, 0], [0, 1, 2, 3, 4]],
    ]
    assert found["categorical"].shape == (2, 0)


def test_looking_codes_up_changes_no_item(items):
    items.codes_of(np.array([-1, 0]), ["kind"], ["topics"])
    assert items.code.tolist() == [1, 2, 0, 0]
    assert items.codes["kind"].tolist() == [2, 1, 0, 0]


def test_items_survive_their_files(items, tmp_path):
    items.save(tmp_path)
    loaded = ItemFeatures.load(tmp_path)
    for name, value in vars(items).items():
        np.testing.assert_equal(getattr(loaded, name), value)
