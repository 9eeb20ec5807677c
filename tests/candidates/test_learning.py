"""A world with a known answer: the next watch follows from the last one."""

import numpy as np
import pytest

from recsys.candidates.batches import TrainingBatches
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.vectors import BulkTower, ValidationRanking
from recsys.core.training import train
from recsys.data.examples import TRAINING, VALIDATION
from tests.candidates.small_log import NUM_ITEMS, model_of, settings_of, shard_of

STEP = 5


def walks(num_users):
    """Return walks in which each item is followed by the one `STEP` rows on."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.integers(0, NUM_ITEMS, num_users), rng.integers(3, 11, num_users)
    return [(s + STEP * np.arange(n)) % NUM_ITEMS for s, n in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize(
    ("similarity", "loss"), [("inner_product", "full_softmax"), ("cosine", "sampled_softmax")]
)
def test_net_learns_the_rule_of_the_next_watch(tmp_path, similarity, loss):
    settings = settings_of(
        windows=(1,),
        embedding_width=16,
        similarity=similarity,
        loss=loss,
        training={"batch_size": 16, "max_epochs": 25, "learning_rate": 0.02, "patience": 25},
    )
    parts = [shard_of(walks(120))]
    sequences = join_sequences(parts)
    training, validation = (
        join_labels(parts, settings, split=split, num_trained=NUM_ITEMS)
        for split in (TRAINING, VALIDATION)
    )
    model = model_of(settings)
    sampler = NegativeSampler({"uniform": 7}, np.ones(NUM_ITEMS, np.int64))
    ranking = ValidationRanking(sequences, validation, settings, is_seen_filtered=False)
    bulk_tower = BulkTower(model)

    def share_right():
        ranks = ranking.ranks(bulk_tower(ranking.inputs), model.item_vectors())
        return {"hr@1": float(np.mean(ranks == 1))}

    assert share_right()["hr@1"] < 0.5
    history = train(
        model,
        model.softmax_loss,
        TrainingBatches(sequences, training, settings, sampler, seed=0),
        share_right,
        settings.training,
        monitor="hr@1",
        larger_is_better=True,
        directory=tmp_path,
        seed=0,
        description="world",
        num_batches=None,
    )
    assert history.best_metrics["hr@1"] > 0.95
