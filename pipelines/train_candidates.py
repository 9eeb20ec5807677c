"""Train the candidate net on a prepared directory; write its vectors and its user tower.

user_tower.onnx, item_vectors.npy   what a bundle takes
model.json                          the tower's inputs and widths, validation metrics
user_vectors.parquet                user_id, vector: as of `data_until`, for other systems
curves.json, tensorboard/           how the training went
unfinished/                         checkpoints to go on from
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.candidates.batches import TrainingBatches
from recsys.candidates.export import export_user_tower, tower_inputs
from recsys.candidates.model import CandidateModel, CandidateSizes
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sequences import (
    Labels,
    Sequences,
    join_labels,
    join_sequences,
    newest_labels,
)
from recsys.candidates.vectors import BulkTower, ValidationRanking, served_inputs
from recsys.core.random import stream
from recsys.core.training import TrainingHistory, train
from recsys.data.examples import TRAINING, VALIDATION
from recsys.data.prepared import Prepared, Shard, load_prepared
from recsys.errors import DataError
from recsys.progress import track
from recsys.settings import CandidateSettings, RecsysSettings

MONITOR = "ndcg@10"


def main(settings: RecsysSettings, prepared: Path, out: Path) -> None:
    """Train, and write everything into `out`.

    Raises:
        DataError: The log gives no training or no validation label.
        TrainingError: The training fails, or `out` holds the checkpoint of another one.
        ArtefactError: The exported tower does not compute what Keras computes.
    """
    log = load_prepared(prepared)
    model = new_model(log, settings.candidates, seed=settings.seed)
    history, validation = train_model(model, log, out, seed=settings.seed)
    export_user_tower(model, validation.inputs, out / "user_tower.onnx")
    np.save(out / "item_vectors.npy", model.item_vectors())
    _write_user_vectors(model, log, out / "user_vectors.parquet")
    description = json.dumps(_describe(model, history), sort_keys=True, indent=1)
    (out / "model.json").write_text(description + "\n", encoding="utf-8")


def new_model(log: Prepared, settings: CandidateSettings, *, seed: int) -> CandidateModel:
    """Return an untrained net with the tables that the log needs."""
    context = {name: log.vocabularies[name].num_codes for name in settings.context}
    num_tokens = log.vocabularies["search_token"].num_codes
    sizes = CandidateSizes(log.catalogue.num_trained, num_tokens, context)
    return CandidateModel(settings, sizes, seed=seed)


def train_model(
    model: CandidateModel, log: Prepared, directory: Path, *, seed: int
) -> tuple[TrainingHistory, ValidationRanking]:
    """Train on the training labels, early stop on the validation labels.

    Returns:
        What the training did, and the validation that it was judged by.
    """
    settings = model.settings
    sequences, training, validation = _load(log, settings, seed)
    sampler = None
    if settings.loss == "sampled_softmax":
        counts = np.asarray(log.catalogue.watch_counts[: log.catalogue.num_trained])
        sampler = NegativeSampler(settings.negative_distribution, counts)
    batches = TrainingBatches(sequences, training, settings, sampler, seed=seed)
    ranking = ValidationRanking(sequences, validation, settings)
    bulk_tower = BulkTower(model)
    history = train(
        model,
        model.softmax_loss,
        batches,
        lambda: ranking.metrics(bulk_tower(ranking.inputs), model.item_vectors()),
        settings.training,
        monitor=MONITOR,
        larger_is_better=True,
        directory=directory,
        seed=seed,
        description="candidate net",
        num_batches=batches.num_batches(),
    )
    return history, ranking


def _load(
    log: Prepared, settings: CandidateSettings, seed: int
) -> tuple[Sequences, Labels, Labels]:
    parts = [(shard.histories, shard.candidates) for shard in log.shards]
    num_trained = log.catalogue.num_trained
    training = join_labels(parts, settings, split=TRAINING, num_trained=num_trained)
    training = training.take(np.flatnonzero(training.item >= 0))
    validation = join_labels(
        parts, settings, split=VALIDATION, num_trained=num_trained, targets_only=True
    )
    for name, labels in (("training", training), ("validation", validation)):
        if len(labels) == 0:
            raise DataError(
                f"the {name} part of the log has no positive watch to learn from, expected at "
                f"least one: look at the [split] and [data.watch] sections of the configuration"
            )
    kept = _some_users(validation.user, settings.validation_users, seed)
    return join_sequences(parts), training, validation.take(np.flatnonzero(kept))


def _some_users(user: np.ndarray, max_users: int, seed: int) -> np.ndarray:
    """Mark the labels of at most `max_users` random users: int64 [L] -> bool [L]."""
    users = np.unique(user)
    chosen = stream(seed, "validation_users").permutation(users)[:max_users]
    return np.isin(user, chosen)


def _write_user_vectors(model: CandidateModel, log: Prepared, path: Path) -> None:
    bulk_tower = BulkTower(model)
    width = model.item_vectors().shape[1]
    schema = pa.schema([("user_id", pa.string()), ("vector", pa.list_(pa.float32(), width))])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for shard in track(log.shards, "user vectors"):
            vectors = _vectors_of(shard, log, model.settings, bulk_tower)
            columns = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
            ids = pa.array(shard.user_ids.astype(np.str_).tolist(), pa.string())
            writer.write_table(pa.Table.from_arrays([ids, columns], schema=schema))


def _vectors_of(
    shard: Shard, log: Prepared, settings: CandidateSettings, bulk_tower: BulkTower
) -> np.ndarray:
    """Return the vectors of a shard's users: float32 [U, D']."""
    parts = [(shard.histories, shard.candidates)]
    labels = newest_labels(parts[0], settings, log.data_until)
    return bulk_tower(served_inputs(join_sequences(parts), labels, settings))[:, 0]


def _describe(model: CandidateModel, history: TrainingHistory) -> dict[str, object]:
    settings = model.settings
    return {
        "inputs": list(tower_inputs(model)),
        "context": list(settings.context),
        "history_length": max(settings.windows),
        "interests": 1,
        "width": model.item_vectors().shape[1],
        "similarity": settings.similarity,
        "best_epoch": history.best_epoch,
        "stop": history.stop,
        "validation": history.best_metrics,
    }
