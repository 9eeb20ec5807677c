import contextlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import build_index as pipeline
from recsys.errors import ArtefactError, ConfigError, IndexRecallError
from recsys.index import approximate, base
from recsys.index.approximate import SERVED_QUERIES, build_approximate, level_norms
from recsys.index.base import build_index, load_index
from recsys.index.exact import ExactIndex
from recsys.index.recall import Truth
from recsys.index.sweep import query_bytes, sweep
from recsys.settings import DataSettings, IndexSettings, RecsysSettings, SplitSettings

faiss = pytest.importorskip("faiss", reason="FAISS is not installed (recsys[cpu])")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def random_vectors(num_items=600, width=8, seed=0):
    return np.random.default_rng(seed).normal(size=(num_items, width)).astype(np.float32)


def test_auto_scans_small_catalogues_and_inverts_large_ones(monkeypatch):
    vectors = random_vectors()
    assert build_index(vectors, IndexSettings()).kind == "exact"
    monkeypatch.setattr(base, "MAX_SCANNED", 599)
    assert build_index(vectors, IndexSettings(recall_k=10)).kind == "ivf_sq8"


def test_auto_scans_everything_without_faiss(monkeypatch):
    monkeypatch.setattr(base, "MAX_SCANNED", 599)
    monkeypatch.setattr(base, "is_faiss_installed", lambda: False)
    assert build_index(random_vectors(), IndexSettings()).kind == "exact"


def test_missing_faiss_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"recsys\[cpu\]"):
        build_index(random_vectors(), IndexSettings(kind="flat"))


def test_recall_below_the_floor_is_refused_with_the_knob():
    settings = IndexSettings(kind="ivf", num_lists=10, num_probes=1, recall_k=50)
    with pytest.raises(IndexRecallError, match="num_probes"):
        build_index(random_vectors(), settings)


def truth_of(vectors, queries, k):
    return Truth.scan(ExactIndex(vectors), queries, k)


def test_probes_are_tuned_until_the_target_and_no_further():
    vectors, queries = random_vectors(), random_vectors(50, seed=1)
    settings = IndexSettings(kind="ivf", num_lists=15, recall_k=20, recall_floor=0.6)
    truth = truth_of(vectors, queries, 20)
    index = sweep(build_approximate(vectors, settings), truth)
    fewer = index.with_settings(num_probes=index.settings.num_probes - 1)
    assert 1 < index.settings.num_probes < 15
    assert truth.recall(index) >= 0.8 > truth.recall(fewer)


def test_sweep_takes_the_cheapest_of_the_settings_that_find_enough():
    vectors, queries = random_vectors(3000, 16), random_vectors(40, 16, seed=1)
    settings = IndexSettings(kind="ivf_pq", num_lists=20, pq_bytes=8, recall_k=20, recall_floor=0.9)
    truth, built = truth_of(vectors, queries, 20), build_approximate(vectors, settings)
    found = sweep(built, truth)
    enough = [
        tried
        for factor in (1.25, 2.0, 4.0, 8.0)
        for probes in range(1, 21)
        if truth.recall(tried := built.with_settings(rescore_factor=factor, num_probes=probes))
        >= 0.95
    ]
    cheapest = min(query_bytes(each, 20) for each in enough)
    assert len({each.settings.rescore_factor for each in enough}) > 1
    assert query_bytes(found, 20) <= 1.1 * cheapest
    assert truth.recall(found) >= 0.95


def test_sweep_keeps_what_is_fixed():
    vectors, queries = random_vectors(2000, 16), random_vectors(40, 16, seed=1)
    fixed = {"num_lists": 20, "rescore_factor": 3.0, "recall_k": 20}
    index = build_index(vectors, IndexSettings(kind="ivf_sq8", **fixed), queries)
    assert index.settings.rescore_factor == 3
    both = IndexSettings(kind="ivf_sq8", num_probes=17, **fixed)
    settings = build_index(vectors, both, queries).settings
    assert (settings.num_probes, settings.rescore_factor) == (17, 3)


def test_query_reads_centroids_codes_and_vectors():
    vectors = random_vectors(600, 8)
    settings = IndexSettings(kind="ivf_sq8", num_lists=6, num_probes=2, rescore_factor=1.5)
    index = build_approximate(vectors, settings)
    # 6 centroids of 32 bytes, a third of 600 codes of 16 (8 padded) + 8, four times 1.5 x 10
    # vectors of 32.
    assert query_bytes(index, 10) == 6 * 32 + 200 * 24 + 4 * 15 * 32


def test_recall_of_the_index_is_of_queries_that_nothing_was_chosen_by(monkeypatch):
    vectors, queries = random_vectors(), random_vectors(50, seed=1)
    asked = []
    monkeypatch.setattr(base, "sweep", lambda index, truth: asked.append(truth.queries) or index)
    settings = IndexSettings(kind="ivf", num_lists=15, num_probes=12, recall_k=20, recall_floor=0)
    index = build_index(vectors, settings, queries)
    np.testing.assert_array_equal(asked[0], queries[::2])
    assert index.recall == truth_of(vectors, queries[1::2], 20).recall(index)
    even, odd = truth_of(vectors, queries, 20).halves()
    np.testing.assert_array_equal(even.queries, queries[::2])
    np.testing.assert_array_equal(odd.queries, queries[1::2])
    np.testing.assert_array_equal(odd.rows, truth_of(vectors, queries[1::2], 20).rows)


@pytest.mark.parametrize("kind", ["ivf", "ivf_sq8", "hnsw", "lsh"])
def test_index_of_mapped_vectors_in_parts_finds_as_much(kind, monkeypatch, tmp_path):
    np.save(tmp_path / "vectors.npy", random_vectors(1500, 16))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    queries = random_vectors(40, 16, seed=1)
    whole = build_index(mapped, IndexSettings(kind=kind, recall_k=20), queries)
    monkeypatch.setattr("recsys.index.exact.CHUNK_ROWS", 400)
    parts = build_index(mapped, IndexSettings(kind=kind, recall_k=20), queries)
    assert len(parts) == 1500
    assert parts.recall >= whole.recall - 0.02


@pytest.mark.parametrize(("width", "stored"), [(8, 16), (16, 16), (65, 80)])
def test_codes_are_as_wide_as_is_decoded_fast_and_scores_the_same(width, stored):
    vectors, queries = random_vectors(700, width), random_vectors(5, width, seed=1)
    index = build_index(vectors, IndexSettings(kind="ivf_sq8", num_probes=99, num_lists=17))
    assert index._stored.d == stored
    found, true = index.search(queries, 10), ExactIndex(vectors).search(queries, 10)
    np.testing.assert_array_equal(found[1], true[1])
    np.testing.assert_array_equal(found[0], true[0])


def test_quantiser_learns_from_a_sample_of_all_vectors(monkeypatch):
    monkeypatch.setattr(approximate, "TRAINING_MAXIMUM", 300)
    vectors = random_vectors(3000)
    few = approximate._training_sample(vectors, IndexSettings(num_lists=5))
    many = approximate._training_sample(vectors, IndexSettings(num_lists=20))
    assert (len(few), len(many)) == (300, 20 * 39)
    np.testing.assert_array_equal(few[[0, -1]], vectors[[0, -1]])


@pytest.mark.parametrize("floor", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_probes_reach_half_way_from_the_floor_to_one(floor):
    settings = IndexSettings(kind="ivf", num_lists=15, recall_k=20, recall_floor=floor)
    # Measured on other queries than those that the probes were found by.
    assert build_index(random_vectors(), settings).recall >= (1 + floor) / 2 - 0.05


def test_floor_of_one_is_reached_by_probing_every_list():
    settings = IndexSettings(kind="ivf", recall_floor=1.0, recall_k=100)
    index = build_index(random_vectors(), settings)
    assert index.recall == 1.0


def test_measured_recall_is_the_share_of_true_rows():
    found = SimpleNamespace(search=lambda q, k: (None, np.array([[3, 9, 8, 0], [4, -1, -1, -1]])))
    rows = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    assert Truth(np.zeros((2, 3), np.float32), rows).recall(found) == 3 / 8


def test_levelled_norms_are_equal_and_keep_inner_products():
    vectors = random_vectors(50)
    largest = np.linalg.norm(vectors, axis=1).max()
    levelled = level_norms(vectors, largest**2)
    np.testing.assert_allclose(np.linalg.norm(levelled, axis=1), largest, rtol=1e-6)
    np.testing.assert_array_equal(levelled[:, :-1], vectors)


def test_norms_of_a_part_are_levelled_to_the_largest_of_all():
    part = level_norms(random_vectors(50), 400.0)
    np.testing.assert_allclose(np.linalg.norm(part, axis=1), 20, rtol=1e-5)


def test_lsh_of_unequal_norms_finds_more_than_angles_alone_would():
    rng = np.random.default_rng(0)
    vectors = random_vectors(2000, 16) * np.exp(0.6 * rng.normal(size=(2000, 1))).astype(np.float32)
    queries = random_vectors(50, 16, seed=1)
    settings = IndexSettings(kind="lsh", recall_floor=0.0, rescore_factor=1.0, recall_k=100)
    levelled = build_index(vectors, settings, queries)
    searcher = faiss.IndexLSH(16, settings.lsh_bits, True)
    searcher.train(vectors)
    searcher.add(vectors)
    raw = approximate.ApproximateIndex(vectors, searcher, settings, None)
    assert levelled.recall > truth_of(vectors, queries, 100).recall(raw) + 0.1


def test_rescoring_more_finds_more():
    vectors, queries = random_vectors(1500, 16), random_vectors(40, 16, seed=1)
    index = build_approximate(vectors, IndexSettings(kind="lsh", lsh_bits=32))
    truth = truth_of(vectors, queries, 100)
    recalls = [truth.recall(index.with_settings(rescore_factor=factor)) for factor in (1, 4, 15)]
    assert recalls[0] < recalls[1] < recalls[2] == 1.0


def test_vectors_that_are_not_finite_are_refused_by_row():
    vectors = random_vectors()
    vectors[17, 3] = np.nan
    with pytest.raises(ArtefactError, match="row 17"):
        build_index(vectors, IndexSettings())


@pytest.fixture
def asked_of_gpu(monkeypatch):
    """What a GPU is asked for; with "gone" among it, it fails."""
    asked = []

    def to_gpu(resources, device, index):
        def search(queries, k, params=None):
            if "gone" in asked:
                asked.append("asked in vain")
                raise RuntimeError("CUDA error 999")
            asked.append(k)
            return index.search(queries, k, params=params)

        return SimpleNamespace(search=search)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: None, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    return asked


def test_gpu_is_asked_for_no_more_than_it_can_and_else_left_out(asked_of_gpu):
    vectors, queries = random_vectors(3000), random_vectors(2, seed=1)
    index = build_approximate(vectors, IndexSettings(kind="ivf_sq8", num_probes=20, num_lists=20))
    for k in (10, 1000, 2500):
        np.testing.assert_array_equal(
            index.search(queries, k)[1], ExactIndex(vectors).search(queries, k)[1]
        )
    assert asked_of_gpu == [42, 2048]


@pytest.mark.parametrize(
    ("num_queries", "expected"), [(SERVED_QUERIES, 1), (SERVED_QUERIES + 1, None)]
)
def test_calls_answered_together_stay_in_their_thread(monkeypatch, num_queries, expected):
    asked = []

    def threads(number):
        asked.append(number)
        return contextlib.nullcontext()

    monkeypatch.setattr(approximate, "_threads", threads)
    index = build_approximate(random_vectors(600), IndexSettings(kind="hnsw"))
    asked.clear()
    index.search(random_vectors(num_queries, seed=1), 10)
    assert set(asked) == {expected}


def test_index_whose_gpu_is_gone_goes_on_without(asked_of_gpu):
    vectors, queries = random_vectors(3000), random_vectors(2, seed=1)
    index = build_approximate(vectors, IndexSettings(kind="ivf_sq8", num_probes=20, num_lists=20))
    asked_of_gpu.append("gone")
    for _ in range(3):
        np.testing.assert_array_equal(
            index.search(queries, 10)[1], ExactIndex(vectors).search(queries, 10)[1]
        )
    assert asked_of_gpu == ["gone", "asked in vain"]


@pytest.mark.parametrize("kind", ["exact", "ivf_sq8"])
def test_damaged_index_is_refused_by_name(kind, tmp_path):
    settings = IndexSettings(kind=kind, recall_k=10)
    build_index(random_vectors(), settings).save(tmp_path)
    description = json.loads((tmp_path / "index.json").read_text())
    for change in ({"format": 99}, {"num_vectors": 599}, {"settings": {"kind": "tree"}}):
        (tmp_path / "index.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(ArtefactError, match="anew"):
            load_index(tmp_path)


def test_missing_or_foreign_faiss_file_is_refused(tmp_path):
    build_index(random_vectors(), IndexSettings(kind="hnsw", recall_k=10)).save(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    build_index(random_vectors(500), IndexSettings(kind="hnsw", recall_k=10)).save(other)
    (other / "index.faiss").replace(tmp_path / "index.faiss")
    with pytest.raises(ArtefactError, match="600 vectors.*found 500"):
        load_index(tmp_path)
    (tmp_path / "index.faiss").write_bytes(b"not an index")
    with pytest.raises(ArtefactError, match="FAISS cannot read"):
        load_index(tmp_path)
    (tmp_path / "index.faiss").unlink()
    with pytest.raises(ArtefactError, match="found none"):
        load_index(tmp_path)


@pytest.fixture
def candidates(tmp_path):
    np.save(tmp_path / "item_vectors.npy", random_vectors())
    users = random_vectors(1200, seed=1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(users.ravel()), 8)
    ids = [f"u{number}" for number in range(1200)]
    pq.write_table(pa.table({"user_id": ids, "vector": column}), tmp_path / "user_vectors.parquet")
    return tmp_path


def run_settings(**index):
    return RecsysSettings(
        name="tiny",
        data=DataSettings(source="synthetic"),
        split=SplitSettings(kind="leave_one_out"),
        index=IndexSettings(recall_k=10, **index),
    )


def test_pipeline_writes_the_index_and_the_measured_kinds(candidates, tmp_path):
    out = tmp_path / "out"
    pipeline.main(run_settings(kind="ivf_sq8"), candidates, out)
    measured = json.loads((out / "recall.json").read_text())
    assert load_index(out).kind == "ivf_sq8"
    assert [row["is_chosen"] for row in measured].count(True) == 1
    assert {row["kind"] for row in measured} == {"exact", "ivf_sq8", "hnsw", "lsh"}
    assert load_index(out).recall >= 0.95
    assert measured[0]["recall"] >= 0.95
    assert all(row["milliseconds"] > 0 for row in measured)


def test_pipeline_compares_with_inverted_files_that_no_sweep_has_tuned(candidates, tmp_path):
    pipeline.main(run_settings(kind="exact"), candidates, tmp_path / "out")
    measured = json.loads((tmp_path / "out" / "recall.json").read_text())
    inverted = [row["setting"] for row in measured if row["kind"] == "ivf_sq8"]
    assert inverted and all(setting.endswith("lists, 4 k") for setting in inverted)


def test_pipeline_samples_user_vectors_without_bending_them(candidates):
    queries = pipeline._sample_queries(candidates / "user_vectors.parquet", 3)
    users = {tuple(row) for row in random_vectors(1200, seed=1).tolist()}
    assert queries.shape == (1000, 8)
    assert {tuple(row) for row in queries.tolist()} <= users


def test_pipeline_says_what_is_missing(candidates, tmp_path):
    (candidates / "user_vectors.parquet").unlink()
    with pytest.raises(ArtefactError, match="candidates step"):
        pipeline.main(run_settings(), candidates, tmp_path / "out")
