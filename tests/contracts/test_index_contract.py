"""What every kind of index promises, asked of each in turn."""

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.index.base import build_index, load_index
from recsys.index.exact import ExactIndex
from recsys.index.recall import Truth
from recsys.settings import IndexSettings

faiss = pytest.importorskip("faiss", reason="FAISS is not installed (recsys[cpu])")

KINDS = ("exact", "flat", "ivf", "hnsw", "ivf_sq8", "ivf_pq", "lsh")
TRAINED_KINDS = ("ivf", "ivf_sq8", "ivf_pq")
WIDTH = 12
NUM_ITEMS = 900


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several spinning threads on a busy machine are slower than one."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def settings(kind, **changes):
    changes = {"pq_bytes": 4, "recall_floor": 0.9, "recall_k": 20, **changes}
    return IndexSettings(kind=kind, **changes)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(7)
    norms = rng.uniform(0.5, 2, (NUM_ITEMS, 1))
    vectors = (rng.normal(size=(NUM_ITEMS, WIDTH)) * norms).astype(np.float32)
    return vectors, rng.normal(size=(40, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module", params=KINDS)
def index(request, world):
    return build_index(world[0], settings(request.param), world[1])


def test_search_finds_at_least_the_floor(index, world):
    vectors, queries = world
    truth = np.argsort(-(queries.astype(float) @ vectors.T.astype(float)), axis=1)[:, :20]
    found = index.search(queries, 20)[1]
    shares = [
        len(set(f) & set(t)) / 20 for f, t in zip(found.tolist(), truth.tolist(), strict=True)
    ]
    assert np.mean(shares) >= 0.9


def test_search_returns_shapes_and_dtypes_of_the_interface(index, world):
    scores, rows = index.search(world[1][:3], 7)
    assert (scores.shape, scores.dtype) == ((3, 7), np.float32)
    assert (rows.shape, rows.dtype) == ((3, 7), np.int64)


def test_scores_are_the_inner_products_in_falling_order(index, world):
    vectors, queries = world
    scores, rows = index.search(queries, 20)
    true = np.einsum("qkd,qd->qk", vectors[rows].astype(float), queries.astype(float))
    np.testing.assert_allclose(scores, true, rtol=1e-6, atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_rows_are_distinct(index, world):
    for rows in index.search(world[1], 50)[1]:
        assert len(np.unique(rows)) == 50


def test_batch_equals_single_bit_by_bit(index, world):
    queries = world[1]
    scores, rows = index.search(queries, 20)
    for q in range(len(queries)):
        alone_scores, alone_rows = index.search(queries[q : q + 1], 20)
        np.testing.assert_array_equal(alone_scores[0], scores[q])
        np.testing.assert_array_equal(alone_rows[0], rows[q])


def test_scores_equal_those_of_the_exact_index_bit_by_bit(index, world):
    vectors, queries = world
    scores, rows = index.search(queries, 20)
    true_scores, true_rows = ExactIndex(vectors).search(queries, NUM_ITEMS)
    for q in range(len(queries)):
        by_row = dict(zip(true_rows[q].tolist(), true_scores[q].tolist(), strict=True))
        assert [by_row[row] for row in rows[q].tolist()] == scores[q].tolist()


def test_more_than_all_is_padded_at_the_end(index, world):
    scores, rows = index.search(world[1][:2], NUM_ITEMS + 5)
    assert (rows[:, -5:] == -1).all()
    assert np.isneginf(scores[:, -5:]).all()
    assert ((rows == -1) == np.isneginf(scores)).all()
    assert (np.diff((rows == -1).astype(int), axis=1) >= 0).all()


def test_no_queries_give_no_answers(index):
    scores, rows = index.search(np.zeros((0, WIDTH), np.float32), 4)
    assert scores.shape == rows.shape == (0, 4)


def test_query_that_is_not_a_number_finds_nothing_and_harms_no_other(index, world):
    queries = world[1][:3].copy()
    queries[1] = np.nan
    rows = index.search(queries, 5)[1]
    assert (rows[1] == -1).all()
    np.testing.assert_array_equal(rows[[0, 2]], index.search(queries[[0, 2]], 5)[1])


def test_saved_index_answers_alike_and_keeps_its_kind(index, world, tmp_path):
    index.save(tmp_path)
    loaded = load_index(tmp_path)
    assert (loaded.kind, len(loaded)) == (index.kind, NUM_ITEMS)
    for mine, theirs in zip(index.search(world[1], 20), loaded.search(world[1], 20), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_same_input_saves_the_same_bytes(index, world, tmp_path):
    index.save(tmp_path)
    other = tmp_path / "again"
    other.mkdir()
    build_index(world[0], settings(index.kind), world[1]).save(other)
    for path in other.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_wrong_queries_are_refused(index, world):
    with pytest.raises(ValueError, match="float32"):
        index.search(world[1].astype(np.float64), 3)
    with pytest.raises(ValueError, match=f"{WIDTH}"):
        index.search(np.zeros((1, WIDTH + 1), np.float32), 3)
    with pytest.raises(ValueError, match="k of at least 1"):
        index.search(world[1], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_are_ordered_by_row(kind):
    base = np.random.default_rng(3).normal(size=(300, WIDTH)).astype(np.float32)
    vectors = np.concatenate([base, base, base])
    index = build_index(vectors, settings(kind, recall_floor=0.0, num_probes=1000))
    # No vector has a larger inner product with the longest one than itself.
    longest = int(np.linalg.norm(base, axis=1).argmax())
    rows = index.search(base[longest : longest + 1], 3)[1]
    assert rows[0].tolist() == [longest, longest + 300, longest + 600]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in TRAINED_KINDS])
def test_empty_catalogue_and_one_item_are_searched(kind, tmp_path):
    for num_items in (0, 1):
        vectors = np.ones((num_items, WIDTH), np.float32)
        build_index(vectors, settings(kind)).save(tmp_path)
        rows = load_index(tmp_path).search(np.ones((1, WIDTH), np.float32), 3)[1]
        assert rows[0].tolist() == [0, -1, -1][: num_items * 3] + [-1] * (3 - num_items * 3)


@pytest.mark.parametrize("kind", TRAINED_KINDS)
def test_kinds_that_must_be_trained_refuse_tiny_catalogues(kind):
    with pytest.raises(ConfigError, match="256 items.*exact"):
        build_index(np.ones((255, WIDTH), np.float32), settings(kind))


def test_recall_of_the_built_index_is_what_measuring_gives(index, world):
    recall = Truth.scan(ExactIndex(world[0]), world[1][1::2], 20).recall(index)
    assert recall == (1.0 if index.kind == "exact" else index.recall)
