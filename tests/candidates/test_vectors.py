"""User vectors in bulk, and the ranks of held-out watches."""

import numpy as np
import pytest

from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.vectors import (
    BulkTower,
    ValidationRanking,
    ranking_metrics,
    served_inputs,
)
from recsys.core.backends import to_numpy
from recsys.data.examples import VALIDATION
from tests.candidates.small_log import NUM_ITEMS, model_of, random_shard, settings_of, shard_of


def held_out(parts, settings):
    sequences = join_sequences(parts)
    labels = join_labels(parts, settings, split=VALIDATION, num_trained=NUM_ITEMS)
    return sequences, labels


def test_bulk_tower_equals_the_model_whatever_the_chunk(monkeypatch):
    settings = settings_of()
    sequences, labels = held_out([random_shard(9)], settings)
    model, inputs = model_of(settings), served_inputs(sequences, labels, settings)
    whole = BulkTower(model)(inputs)
    monkeypatch.setattr("recsys.candidates.vectors.CHUNK", 4)
    np.testing.assert_allclose(BulkTower(model)(inputs), whole, atol=1e-6)
    batch = {name: values[:, None] for name, values in inputs.items() if name != "history"}
    batch |= {"history": inputs["history"], "positions": batch.pop("history_length")}
    batch["example_age"] = np.zeros((9, 1), np.float32)
    np.testing.assert_allclose(to_numpy(model.served_user_vectors(batch)), whole, atol=1e-6)


def test_served_inputs_hold_no_more_than_the_longest_window():
    settings = settings_of(windows=(1, 3))
    sequences, labels = held_out([shard_of([[0, 1, 2, 3, 4, 5], [6, 7]])], settings)
    inputs = served_inputs(sequences, labels, settings)
    assert inputs["history"].tolist() == [[3, 4, 5], [7, 0, 0]]
    assert inputs["history_length"].tolist() == [3, 1]
    assert "example_age" not in inputs


def ranks_of(watches, item_scores, **changes):
    settings = settings_of()
    sequences, labels = held_out([shard_of(watches)], settings)
    ranking = ValidationRanking(sequences, labels, settings, **changes)
    user_vectors = np.ones((len(watches), 1, 1), np.float32)
    return ranking.ranks(user_vectors, np.asarray(item_scores, np.float32)[:, None])


def test_ranks_leave_out_what_the_user_has_seen():
    scores = np.arange(NUM_ITEMS, 0, -1)
    assert ranks_of([[0, 1, 4]], scores).tolist() == [3]
    assert ranks_of([[0, 1, 4]], scores, is_seen_filtered=False).tolist() == [5]


def test_ranks_do_not_mix_up_users():
    scores = np.arange(NUM_ITEMS, 0, -1)
    assert ranks_of([[3, 0, 2], [0, 1, 3]], scores).tolist() == [2, 2]


def test_ranks_of_ties_count_against_the_target():
    assert ranks_of([[0, 4]], np.ones(NUM_ITEMS)).tolist() == [NUM_ITEMS - 1]


def test_rank_of_an_item_seen_or_without_a_vector_is_a_miss():
    scores = np.arange(NUM_ITEMS, 0, -1)
    assert ranks_of([[0, 1, 0], [0, NUM_ITEMS]], scores).tolist() == [np.inf, np.inf]


def test_ranking_metrics_of_a_hand_worked_case():
    metrics = ranking_metrics(np.array([1.0, 3.0, 11.0, 51.0]))
    assert metrics["hr@10"] == 0.5
    assert metrics["hr@50"] == 0.75
    assert metrics["ndcg@10"] == pytest.approx((1 + 1 / 2) / 4)
