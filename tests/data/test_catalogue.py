import numpy as np
import pyarrow as pa
import pytest

from recsys.data.catalogue import Catalogue
from recsys.data.vocabularies import build_catalogue
from recsys.settings import DataSettings

ITEMS = pa.table({"item_id": ["cold", "b", "a"], "duration_ms": [None, None, 700]})
SHARDS = [
    pa.table(
        {"item_id": ["b", "late"], "watches": [2, 0], "events": [3, 0], "duration_ms": [40, -1]}
    ),
    pa.table({"item_id": ["a", "b"], "watches": [5, 3], "events": [9, 3], "duration_ms": [90, 50]}),
]


@pytest.fixture
def built():
    return build_catalogue(ITEMS, SHARDS, DataSettings(source="table"))


def test_trained_items_come_first_by_watches_then_id(built):
    catalogue, _ = built
    assert catalogue.item_ids(np.arange(4)) == ["a", "b", "cold", "late"]
    assert catalogue.num_trained == 2
    assert catalogue.watch_counts.tolist() == [5, 5, 0, 0]


def test_training_events_follow_the_rows(built):
    assert built[1].tolist() == [9, 6, 0, 0]


def test_durations_of_items_win_over_those_of_events(built):
    assert built[0].table["duration_ms"].to_pylist() == [700, 50, None, None]


def test_codes_are_zero_for_untrained_and_unknown(built):
    assert built[0].codes(np.array([0, 1, 2, -1])).tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("limit", [{"min_item_watches": 6}, {"max_items": 1}])
def test_limits_leave_items_servable_but_untrained(limit):
    catalogue, _ = build_catalogue(ITEMS, SHARDS, DataSettings(source="table", **limit))
    assert catalogue.num_trained == (0 if "min_item_watches" in limit else 1)
    assert len(catalogue) == 4


def test_saved_catalogue_loads_equal(built, tmp_path):
    built[0].save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    assert loaded.table.equals(built[0].table)
    assert loaded.rows(["late", "?"]).tolist() == [3, -1]
    assert loaded.num_trained == 2
