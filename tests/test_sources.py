"""Each source against a world that can be worked by hand."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from recsys.candidates.co_visits import CoVisits
from recsys.data.catalogue import Catalogue
from recsys.data.timelines import WatchHistories
from recsys.data.vocabulary import Vocabulary
from recsys.eligibility import Eligibility, Restrictions
from recsys.recent_watches import RecentWatches
from recsys.requests import ItemFilter
from recsys.sources import CoVisitation, NewItems, RecentPopularity, SameChannel, newest_watches

DAY = 86_400_000_000
NOW = 100 * DAY
NONE = np.zeros(0, np.int32)
NUM_ITEMS = 8
CHANNEL = np.array([0, 0, 1, 1, 1, 2, -1, 0], np.int32)


@pytest.fixture(scope="module")
def eligibility():
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    table = pa.table({"item_id": ids, "language": ["nl"] * 4 + ["en"] * 4})
    counts = np.zeros(NUM_ITEMS, np.int64)
    return Eligibility(Catalogue(Vocabulary.from_ids(ids), table, counts, NUM_ITEMS))


def users_of(*watched, now=NOW):
    """Users and their watched rows, the newest last, a moment apart."""
    lengths = [len(rows) for rows in watched]
    code = np.array([row + 1 for rows in watched for row in rows], np.int32)
    moment = np.concatenate([np.arange(length) for length in [*lengths, 0]]).astype(np.int64)
    histories = WatchHistories(np.concatenate([[0], np.cumsum(lengths)]), code, moment)
    return SimpleNamespace(watches=histories, moment=np.full(len(watched), now))


def limit(*, watched=NONE, current=-1, now=NOW, **wanted):
    return Restrictions(np.unique(watched), NONE, current, ItemFilter(**wanted), now)


def rows(finds):
    return finds.rows.tolist()


def test_newest_watches_begin_with_the_current_item():
    users = users_of([3, 1, 2], [], list(range(8)) * 2)
    found = newest_watches(users, [limit(), limit(current=5), limit(current=6)])
    assert found[0].tolist() == [-1, 2, 1, 3] + [-1] * 7
    assert found[1].tolist() == [5] + [-1] * 10
    assert found[2].tolist() == [6, 7, 6, 5, 4, 3, 2, 1, 0, 7, 6]


def test_watch_that_is_not_known_yet_is_none():
    users = users_of([3, 1, 2], now=2)
    assert newest_watches(users, [limit()])[0, 1:3].tolist() == [1, 3]


@pytest.fixture
def co_visitation(eligibility):
    neighbours = np.full((3, 2), -1, np.int32)
    neighbours[0], neighbours[1] = [2, 1], [2, 3]
    similarity = np.array([[0.9, 0.6], [0.5, 0.42], [0, 0]], np.float32)
    return CoVisitation(CoVisits(neighbours, similarity), eligibility)


def test_co_visitation_adds_up_over_watches_the_newest_counting_most(co_visitation):
    finds = co_visitation.find(users_of([0, 1], [1, 0], [6]), [limit()] * 3, 5)
    # Weights are 1 for a current item, 1/2 for the newest watch, 1/3 for the one before.
    assert rows(finds[0]) == [2, 3, 1]
    np.testing.assert_allclose(finds[0].scores, [0.5 / 2 + 0.9 / 3, 0.42 / 2, 0.6 / 3], rtol=1e-6)
    assert rows(finds[1]) == [2, 1, 3]
    assert rows(finds[2]) == []  # 6 has no trained row


def test_co_visitation_counts_the_current_item_first_and_keeps_its_quota(co_visitation):
    users = users_of([1])
    assert rows(co_visitation.find(users, [limit(current=0, watched=[1])], 1)[0]) == [2]
    assert rows(co_visitation.find(users, [limit(watched=[2])], 9)[0]) == [3]
    assert rows(co_visitation.find(users, [limit(languages=frozenset({"en"}))], 9)[0]) == []


def test_recent_popularity_follows_events_and_restrictions(eligibility):
    recent = RecentWatches(np.array([3.0, 2, 1, 0, 0, 0, 0, 0]), NOW, 24)
    source = RecentPopularity(recent, eligibility)
    users = users_of([], [])
    assert [rows(each) for each in source.find(users, [limit(), limit(watched=[0])], 2)] == [
        [0, 1],
        [1, 2],
    ]
    recent.add(np.array([5] * 4), np.full(4, NOW))
    assert rows(source.find(users, [limit()], 2)[0]) == [5, 0]


def test_popular_items_that_are_all_ruled_out_give_way_to_the_next():
    num_items = 2000
    ids = [str(row).zfill(4) for row in range(num_items)]
    catalogue = Catalogue(
        Vocabulary.from_ids(ids), pa.table({"item_id": ids}), np.zeros(num_items, np.int64), 0
    )
    recent = RecentWatches(np.arange(num_items, 0, -1.0), NOW, 24)
    source = RecentPopularity(recent, Eligibility(catalogue))
    seen = limit(watched=np.arange(1000))
    assert rows(source.find(users_of([]), [seen], 3)[0]) == [1000, 1001, 1002]
    new = NewItems(np.arange(num_items) * 1000, 9 * DAY, Eligibility(catalogue))
    seen = limit(watched=np.arange(1000, 2000), now=2_000_000)
    assert rows(new.find(users_of([]), [seen], 3)[0]) == [999, 998, 997]


def test_same_channel_takes_the_most_watched_of_the_channels_watched_last(eligibility):
    watches = np.array([5, 9, 1, 3, 2, 8, 7, 6])
    source = SameChannel(CHANNEL, 3, watches, eligibility)
    finds = source.find(users_of([0, 2], [6], []), [limit(watched=[0, 2]), limit(), limit()], 9)
    # Channel 1 weighs 1/2: items 3, 4, 2 at 1/2, 1/4, 1/6; channel 0 weighs 1/3: 1, 7, 0.
    assert rows(finds[0]) == [3, 1, 4, 7]
    np.testing.assert_allclose(finds[0].scores, [1 / 2, 1 / 3, 1 / 4, 1 / 6], rtol=1e-6)
    assert rows(finds[1]) == rows(finds[2]) == []
    current = source.find(users_of([]), [limit(current=5)], 9)[0]
    assert rows(current) == []  # alone in its channel
    assert rows(source.find(users_of([]), [limit(current=7)], 1)[0]) == [1]


def test_new_items_are_the_newest_that_have_started_and_are_not_old(eligibility):
    started = np.array([NOW - DAY, NOW, NOW + 1, -1, NOW - 8 * DAY, NOW - 7 * DAY, 5, NOW - DAY])
    source = NewItems(started, 7 * DAY, eligibility)
    finds = source.find(users_of([], []), [limit(), limit(watched=[1])], 9)
    assert rows(finds[0]) == [1, 0, 7, 5]
    assert finds[0].scores.tolist() == [0, -86400, -86400, -7 * 86400]
    assert rows(finds[1]) == [0, 7, 5]
    assert rows(source.find(users_of([]), [limit(now=NOW + 1)], 2)[0]) == [2, 1]
    assert rows(source.find(users_of([]), [limit(now=3)], 2)[0]) == []
