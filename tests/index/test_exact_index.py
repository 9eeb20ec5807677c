import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.index import exact
from recsys.index.exact import ExactIndex, score_rows

SMALL = st.integers(-3, 3).map(float)


def test_search_hand_worked_case_orders_ties_by_row():
    vectors = np.array([[1, 0], [0, 2], [2, 0], [0, 1], [2, 5]], np.float32)
    scores, rows = ExactIndex(vectors).search(np.array([[1, 0], [0, -1]], np.float32), 4)
    assert rows.tolist() == [[2, 4, 0, 1], [0, 2, 3, 1]]
    assert scores.tolist() == [[2, 2, 1, 0], [0, 0, -1, -2]]


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 30), st.just(3)), elements=SMALL),
    arrays(np.float32, (2, 3), elements=SMALL),
    st.integers(1, 35),
)
def test_search_equals_sorting_everything(vectors, queries, k):
    scores, rows = ExactIndex(vectors).search(queries, k)
    for q, query in enumerate(queries):
        products = [float(vector @ query) for vector in vectors.astype(float)]
        order = sorted(range(len(vectors)), key=lambda row: (-products[row], row))[:k]
        assert rows[q].tolist() == order + [-1] * (k - len(order))
        assert scores[q, : len(order)].tolist() == [products[row] for row in order]


def test_search_in_chunks_equals_search_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    index = ExactIndex(rng.normal(size=(100, 8)).astype(np.float32))
    queries = rng.normal(size=(11, 8)).astype(np.float32)
    whole = index.search(queries, 10)
    monkeypatch.setattr(exact, "MAX_CHUNK_SCORES", 250)
    for mine, theirs in zip(whole, index.search(queries, 10), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_order_is_that_of_exact_scores_where_float32_sums_are_rough():
    rng = np.random.default_rng(1)
    # Large parts that cancel leave little of a float32 sum: BLAS alone gets the order wrong.
    large = rng.normal(size=32)
    vectors = (np.tile(np.concatenate([large, large]), (400, 1)) * 1000).astype(np.float32)
    vectors += rng.normal(size=(400, 64)).astype(np.float32) * np.float32(0.01)
    half = rng.normal(size=(10, 32))
    queries = np.concatenate([half, -half], axis=1).astype(np.float32)
    true = (queries.astype(float) @ vectors.T.astype(float)).astype(np.float32)
    expected = np.argsort(-true, axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(ExactIndex(vectors).search(queries, 50)[1], expected)


def test_score_of_a_row_is_the_same_beside_any_others():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(50, 33)).astype(np.float32)
    query = rng.normal(size=33).astype(np.float32)
    together = score_rows(vectors, query, np.arange(50))
    alone = [score_rows(vectors, query, np.array([row]))[0] for row in range(50)]
    assert together.tolist() == alone
