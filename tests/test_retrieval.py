from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.candidates.successors import SuccessorCounts
from recsys.data.catalogue import Catalogue
from recsys.data.vocabulary import Vocabulary
from recsys.eligibility import Eligibility, Restrictions
from recsys.index.exact import ExactIndex
from recsys.requests import ItemFilter
from recsys.retrieval import Retrieval
from recsys.settings import CandidateSettings

NUM_ITEMS = 400
NONE = np.zeros(0, np.int32)


class Wasteful:
    """An index that finds the right rows, but at most as many as asked for, and notes k."""

    def __init__(self, vectors):
        self._exact = ExactIndex(vectors)
        self.asked = []

    def __len__(self):
        return len(self._exact)

    def search(self, queries, k):
        self.asked.append(k)
        return self._exact.search(queries, k)


@pytest.fixture(scope="module")
def world():
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 8)).astype(np.float32)
    ids = [f"i{row:03}" for row in range(NUM_ITEMS)]
    channels = [f"c{row % 100}" for row in range(NUM_ITEMS)]
    table = pa.table({"item_id": ids, "channel_id": channels})
    catalogue = Catalogue(Vocabulary.from_ids(ids), table, np.zeros(NUM_ITEMS, np.int64), NUM_ITEMS)
    popular = np.arange(NUM_ITEMS, dtype=np.int32)[::-1]
    bundle = SimpleNamespace(index=Wasteful(vectors), item_vectors=vectors, popular=popular)
    return Retrieval(bundle, Eligibility(catalogue)), vectors, bundle.index


def restrict(*, watched=NONE, excluded=NONE, channels=()):
    item_filter = ItemFilter(channel_ids=frozenset(channels))
    return Restrictions(np.unique(watched), np.unique(excluded), -1, item_filter, 0)


def expected(vectors, query, allowed, k):
    scores = np.where(allowed, vectors @ query, -np.inf)
    return np.argsort(-scores, kind="stable")[: min(k, allowed.sum())]


rows = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=NUM_ITEMS)


@given(watched=rows, excluded=rows, seed=st.integers(0, 100), k=st.integers(1, 40))
def test_removed_items_never_come_back_and_the_rest_is_exact(world, watched, excluded, seed, k):
    retrieval, vectors, _ = world
    query = np.random.default_rng(seed).normal(size=8).astype(np.float32)
    found = retrieval.by_vector(
        query[None, None],
        [restrict(watched=np.array(watched, int), excluded=np.array(excluded, int))],
        k,
    )[0]
    allowed = ~np.isin(np.arange(NUM_ITEMS), watched + excluded)
    np.testing.assert_array_equal(found.rows, expected(vectors, query, allowed, k))


def test_narrow_filter_still_fills_the_answer(world):
    retrieval, vectors, index = world
    index.asked.clear()
    query = vectors[0]
    found = retrieval.by_vector(query[None, None], [restrict(channels=["c7"])], 4)[0]
    allowed = np.arange(NUM_ITEMS) % 100 == 7
    assert found.rows.tolist() == expected(vectors, query, allowed, 4).tolist()
    np.testing.assert_allclose(found.scores, vectors[found.rows] @ query, rtol=1e-5)
    assert index.asked == [128]
    assert found.dropped == {"filtered": NUM_ITEMS - 4}


def test_batch_gives_each_the_answer_it_gets_alone(world):
    retrieval, _, _ = world
    queries = np.random.default_rng(3).normal(size=(3, 1, 8)).astype(np.float32)
    limits = [restrict(), restrict(watched=np.arange(200)), restrict(channels=["c1"])]
    together = retrieval.by_vector(queries, limits, 20)
    for query, limit, found in zip(queries, limits, together, strict=True):
        alone = retrieval.by_vector(query[None], [limit], 20)[0]
        np.testing.assert_array_equal(found.rows, alone.rows)
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-6)


def test_interests_are_merged_at_their_best_score(world):
    retrieval, vectors, _ = world
    queries = np.random.default_rng(4).normal(size=(1, 2, 8)).astype(np.float32)
    found = retrieval.by_vector(queries, [restrict()], 30)[0]
    best = (vectors @ queries[0].T).max(axis=1)
    np.testing.assert_array_equal(found.rows, np.argsort(-best, kind="stable")[:30])
    np.testing.assert_allclose(found.scores, np.sort(best)[::-1][:30], rtol=1e-5)


def test_popular_keeps_order_and_obeys_restrictions(world):
    retrieval, _, _ = world
    found = retrieval.popular(restrict(watched=np.array([399, 397])), 3)
    assert found.rows.tolist() == [398, 396, 395]
    assert list(found.found_by) == ["popular"]
    assert found.dropped == {"watched": 2}


@pytest.mark.parametrize("channels", [(), ("c7", "c9")])
def test_what_follows_the_last_item_gains_exactly(world, channels):
    _, vectors, _ = world
    settings = SimpleNamespace(
        candidates=CandidateSettings(successor_windows=(2,), popularity_minutes=(60,))
    )
    bundle = SimpleNamespace(
        index=Wasteful(vectors), item_vectors=vectors, popular=NONE, settings=settings
    )
    retrieval = Retrieval(bundle, world[0]._eligibility)
    queries = np.random.default_rng(5).normal(size=(2, 1, 8)).astype(np.float32)
    gained = np.array([[0.7, 1.1], [2.0, 0.1], [0.3, 0.2]], np.float32)
    # The second user's last item was followed by items of rows 107 and 9, the first's by row 9.
    successions = SuccessorCounts(np.array([0, 1, 1]), np.array([10, 10, 108], np.int32), gained)
    limits = [restrict(channels=channels)] * 2
    found = retrieval.by_vector(queries, limits, 3, successions)
    scores = queries[:, 0] @ vectors.T
    scores[[0, 1, 1], [9, 9, 107]] += (queries[[0, 1, 1], 0, 4:6] * gained).sum(axis=1)
    rows = np.arange(NUM_ITEMS)
    allowed = np.isin(rows % 100, [int(name[1:]) for name in channels]) | (not channels)
    for user in range(2):
        best = np.argsort(-np.where(allowed, scores[user], -np.inf), kind="stable")[:3]
        assert found[user].rows.tolist() == best.tolist()
        np.testing.assert_allclose(found[user].scores, scores[user, best], rtol=1e-5)


def test_losses_do_not_drop_items_where_everything_was_found(world):
    _, vectors, _ = world
    settings = SimpleNamespace(
        candidates=CandidateSettings(successor_windows=(2,), popularity_minutes=(60,))
    )
    bundle = SimpleNamespace(
        index=Wasteful(vectors), item_vectors=vectors, popular=NONE, settings=settings
    )
    retrieval = Retrieval(bundle, world[0]._eligibility)
    query = np.ones((1, 1, 8), np.float32)
    successions = SuccessorCounts(
        np.zeros(1, np.int64), np.array([10], np.int32), np.full((1, 2), -1000, np.float32)
    )
    (found,) = retrieval.by_vector(query, [restrict()], NUM_ITEMS, successions)
    assert sorted(found.rows.tolist()) == list(range(NUM_ITEMS))
    assert found.rows[-1] == 9
