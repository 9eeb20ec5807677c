import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation import metrics
from recsys.evaluation.metrics import (
    Relevant,
    catalogue_coverage,
    find_hits,
    intra_list_diversity,
    novelty,
    popularity_percentile,
    ranking_metrics,
)


def relevant_sets(sets):
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in sets])]).astype(int)
    return Relevant(offsets, np.array([item for items in sets for item in items], int))


def test_metrics_of_a_hand_worked_list():
    ranked = np.array([[7, 3, 5, 1]])
    values = ranking_metrics(ranked, relevant_sets([[3, 1, 9]]), [1, 4])
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    expected = {
        "hr@4": 1,
        "recall@4": 2 / 3,
        "precision@4": 1 / 2,
        "ndcg@4": (1 / np.log2(3) + 1 / np.log2(5)) / ideal,
        "mrr@4": 1 / 2,
        "map@4": (1 / 2 + 2 / 4) / 3,
    }
    for name, value in expected.items():
        assert values[name][0] == pytest.approx(value, abs=1e-15), name
        assert values[name.replace("@4", "@1")][0] == 0


@pytest.mark.parametrize("place", [0, 4, 9])
def test_single_target_gives_the_leave_one_out_metrics(place):
    ranked = np.array([[*range(place), 99, *range(20, 29 - place)]])
    values = ranking_metrics(ranked, Relevant.single(np.array([99])), [10])
    assert values["hr@10"] == values["recall@10"] == 1
    assert values["ndcg@10"][0] == 1 / np.log2(place + 2)
    assert values["mrr@10"][0] == values["map@10"][0] == 1 / (place + 1)


def ask_ranx(judged, run, names):
    """Evaluate with ranx in a process of its own: compiled, it takes minutes to start."""
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore'); import ranx;"
        "judged, run, names = json.load(sys.stdin);"
        "found = ranx.evaluate(ranx.Qrels(judged), ranx.Run(run), names);"
        "print(json.dumps({name: float(value) for name, value in found.items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([judged, run, names]),
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_metrics_equal_those_of_ranx():
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(60)[:20] for _ in range(50)])
    sets = [rng.permutation(60)[: rng.integers(1, 30)].tolist() for _ in range(50)]
    judged = {f"q{q:03d}": {str(item): 1 for item in items} for q, items in enumerate(sets)}
    run = {
        f"q{q:03d}": {str(item): 100.0 - place for place, item in enumerate(line)}
        for q, line in enumerate(ranked.tolist())
    }
    ours = ranking_metrics(ranked, relevant_sets(sets), [5, 20, 40])
    their_names = [name.replace("hr@", "hit_rate@") for name in ours]
    theirs = ask_ranx(judged, run, their_names)
    for values, their_name in zip(ours.values(), their_names, strict=True):
        assert values.mean() == pytest.approx(theirs[their_name], abs=1e-12), their_name


def test_padding_is_no_hit_even_beside_the_neighbours_last_item():
    # Query 1's padding is the number before its range: item 9 of query 0.
    ranked = np.array([[1, -1], [-1, -1]])
    assert not find_hits(ranked, relevant_sets([[9], []])).any()


@pytest.mark.parametrize(("max_marks", "query_chunk"), [(1, 100), (200, 100), (10**6, 7)])
def test_queries_in_chunks_equal_queries_at_once(monkeypatch, max_marks, query_chunk):
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(40)[:10] for _ in range(30)])
    ranked[::3, 6:] = -1
    relevant = relevant_sets([rng.permutation(40)[: rng.integers(0, 9)] for _ in range(30)])
    whole = ranking_metrics(ranked, relevant, [3, 10])
    monkeypatch.setattr(metrics, "MAX_MARKS", max_marks)
    monkeypatch.setattr(metrics, "QUERY_CHUNK", query_chunk)
    chunked = ranking_metrics(ranked, relevant, [3, 10])
    for name, values in whole.items():
        assert values.tolist() == chunked[name].tolist()


def test_hits_equal_the_slow_twin():
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(30)[:8] for _ in range(200)])
    ranked[rng.random(200) < 0.5, 5:] = -1
    sets = [rng.permutation(30)[: rng.integers(0, 9)].tolist() for _ in range(200)]
    slow = [[item in own for item in line] for line, own in zip(ranked, sets, strict=True)]
    assert find_hits(ranked, relevant_sets(sets)).tolist() == slow


def test_no_queries_have_no_values():
    values = ranking_metrics(np.zeros((0, 5), int), relevant_sets([]), [2])
    assert all(len(value) == 0 for value in values.values())


def test_query_without_relevant_items_counts_zero():
    values = ranking_metrics(np.array([[1, 2]]), relevant_sets([[]]), [2])
    assert all(value[0] == 0 for value in values.values())


def test_repeated_item_is_refused():
    with pytest.raises(ValueError, match="list 1"):
        find_hits(np.array([[1, 2, -1, -1], [3, 4, 3, 5]]), relevant_sets([[1], [2]]))


def test_repeated_item_is_refused_by_the_number_of_its_list_in_any_chunk(monkeypatch):
    monkeypatch.setattr(metrics, "QUERY_CHUNK", 2)
    with pytest.raises(ValueError, match="list 5"):
        find_hits(np.array([[1, 2]] * 5 + [[3, 3]]), relevant_sets([[1]] * 6))


def test_other_number_of_queries_is_refused():
    with pytest.raises(ValueError, match=r"\[2, K\]"):
        find_hits(np.zeros((3, 1), int), relevant_sets([[1], [2]]))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_metric_lies_between_0_and_1_and_is_1_for_the_best_list(data):
    items = data.draw(st.permutations(range(12)))
    num_relevant = data.draw(st.integers(1, 6))
    relevant = relevant_sets([range(num_relevant)])
    values = ranking_metrics(np.array([items]), relevant, [6])
    best = ranking_metrics(np.arange(12)[None], relevant, [6])
    for name, value in values.items():
        assert 0 <= value[0] <= best[name][0] + 1e-12
    assert best["ndcg@6"][0] == best["map@6"][0] == best["recall@6"][0] == 1


def test_coverage_counts_distinct_items_of_the_first_k():
    ranked = np.array([[0, 1, 9], [1, -1, -1]])
    assert catalogue_coverage(ranked, 10, 2) == 0.2
    assert catalogue_coverage(ranked, 10, 3) == 0.3


def test_popularity_percentile_shares_the_middle_of_ties():
    counts = np.array([5, 0, 1, 1, 9])
    ranked = np.array([[4, 1], [2, -1], [-1, -1]])
    percentile = popularity_percentile(ranked, counts, 2)
    assert percentile[:2].tolist() == [0.5, 1.5 / 4]
    assert np.isnan(percentile[2])


def test_novelty_of_hand_worked_counts():
    counts = np.array([3, 0, 1])
    # With one more each: 4, 1 and 2 of 7.
    bits = novelty(np.array([[0, 1], [2, -1]]), counts, 2)
    np.testing.assert_allclose(bits, [(np.log2(7 / 4) + np.log2(7)) / 2, np.log2(7 / 2)])


def test_diversity_equals_the_slow_twin():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 5))
    vectors[3] = 0
    ranked = np.stack([rng.permutation(20)[:6] for _ in range(10)])
    ranked[0, 4:] = -1
    for q, items in enumerate(ranked[:, :5]):
        members = [vectors[i] / max(np.linalg.norm(vectors[i]), 1e-300) for i in items if i >= 0]
        pairs = [1 - a @ b for i, a in enumerate(members) for b in members[:i]]
        assert intra_list_diversity(ranked, vectors, 5)[q] == pytest.approx(np.mean(pairs))


def test_diversity_of_one_item_is_unknown():
    assert np.isnan(intra_list_diversity(np.array([[0, -1]]), np.ones((1, 2)), 2)[0])
