from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.catalogue import Catalogue
from recsys.data.schema import ITEMS
from recsys.data.vocabulary import Vocabulary
from recsys.eligibility import REASONS, Eligibility, Restrictions
from recsys.errors import RequestError
from recsys.requests import ItemFilter

NONE = np.zeros(0, np.int32)
HOUR_MS = 3_600_000
NOON = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() * 1e6)


def at(hour):
    return datetime(2026, 1, 1, hour, tzinfo=UTC)


@pytest.fixture
def eligibility():
    items = [
        {
            "item_id": "a",
            "topics": ["sport", "news"],
            "channel_id": "x",
            "duration_ms": 1000,
            "upload_time": at(9),
        },
        {"item_id": "b", "topics": None, "channel_id": "y", "duration_ms": None},
        {"item_id": "c", "topics": ["music"], "language": "de", "available_from": at(13)},
        {"item_id": "d", "topics": [], "channel_id": "x", "available_until": at(12)},
    ]
    table = pa.Table.from_pylist(items, schema=ITEMS)
    vocabulary = Vocabulary.from_ids(["a", "b", "c", "d"])
    return Eligibility(Catalogue(vocabulary, table, np.zeros(4, np.int64), 4))


def reasons(eligibility, *, watched=NONE, excluded=NONE, current=-1, now=NOON, **wanted):
    restrictions = Restrictions(watched, excluded, current, ItemFilter(**wanted), now)
    codes = eligibility.reasons(np.arange(4), restrictions)
    return [REASONS[code] for code in codes]


def test_item_is_available_from_its_start_to_just_before_its_end(eligibility):
    assert reasons(eligibility) == ["", "", "unavailable", "unavailable"]
    one = 3_600_000_000
    assert reasons(eligibility, now=NOON + one) == ["", "", "", "unavailable"]
    assert reasons(eligibility, now=NOON - 1) == ["", "", "unavailable", ""]


def test_watched_excluded_and_current_items_are_named(eligibility):
    found = reasons(eligibility, watched=np.array([1]), excluded=np.array([0, 1]))
    assert found == ["excluded", "watched", "unavailable", "unavailable"]
    assert reasons(eligibility, current=0)[0] == "current"


@pytest.mark.parametrize(
    ("wanted", "passing"),
    [
        ({"topics": frozenset({"sport", "music"})}, [0]),
        ({"channel_ids": frozenset({"y"})}, [1]),
        ({"languages": frozenset({"de"})}, []),
        ({"max_duration_ms": 999}, [1]),
        ({"max_duration_ms": 1000}, [0, 1]),
        ({"max_age_ms": 3 * HOUR_MS}, [0]),
        ({"max_age_ms": 3 * HOUR_MS - 1}, []),
        ({"max_age_ms": 100 * 366 * 24 * HOUR_MS}, [0]),
        ({"excluded_topics": frozenset({"news", "cats"})}, [1]),
        ({"excluded_topics": frozenset({"cats"})}, [0, 1]),
        ({"excluded_channel_ids": frozenset({"y", "z"})}, [0]),
        ({"channel_ids": frozenset({"x"}), "excluded_topics": frozenset({"sport"})}, []),
    ],
)
def test_filter_keeps_what_matches(eligibility, wanted, passing):
    assert [
        row for row, reason in enumerate(reasons(eligibility, **wanted)) if not reason
    ] == passing


def test_item_that_is_not_uploaded_yet_is_not_young(eligibility):
    early = NOON - 4 * 1000 * HOUR_MS
    assert reasons(eligibility, now=early, max_age_ms=99 * HOUR_MS)[0] == "filtered"


def test_items_beside_the_allowed_are_named(eligibility):
    def found(allowed):
        item_filter = ItemFilter(max_duration_ms=999)
        limit = Restrictions(NONE, np.array([2]), -1, item_filter, NOON, np.array(allowed, int))
        return [REASONS[code] for code in eligibility.reasons(np.arange(4), limit)]

    assert found([1, 2]) == ["not_allowed", "", "excluded", "unavailable"]
    assert found([]) == ["not_allowed", "not_allowed", "excluded", "unavailable"]


def test_filter_on_value_of_no_item_is_refused(eligibility):
    with pytest.raises(RequestError, match=r"filter\.topics.*'sprot'"):
        eligibility.check(ItemFilter(topics=frozenset({"sprot"})))
    eligibility.check(ItemFilter(topics=frozenset({"sport"}), channel_ids=frozenset({"x"})))
    eligibility.check(ItemFilter(excluded_topics=frozenset({"sprot"})))


def test_catalogue_without_attributes_filters_nothing():
    table = pa.table({"item_id": ["a", "b"]})
    catalogue = Catalogue(Vocabulary.from_ids(["a", "b"]), table, np.zeros(2, np.int64), 2)
    restrictions = Restrictions(NONE, NONE, -1, ItemFilter(), NOON)
    assert Eligibility(catalogue).reasons(np.array([1, 0]), restrictions).tolist() == [0, 0]
