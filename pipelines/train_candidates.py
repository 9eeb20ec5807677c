"""Train the candidate net on a prepared directory; write its vectors and its user tower.

user_tower.onnx, item_vectors.npy   what a bundle takes
successors.npy                      int32 [N, L], where the net is told what followed an item
model.json                          the tower's inputs and widths, validation metrics
user_vectors.parquet                user_id, vector: as of `data_until`, for other systems; a row
                                    an interest
curves.json, tensorboard/           how the training went
weights.npz                         for the net of a later log to begin with
unfinished/                         checkpoints to go on from
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.candidate_files import (
    inputs_of,
    write_item_projector,
    write_successors,
    write_user_vectors,
)
from pipelines.paths import RunPaths
from pipelines.steps import read_identity
from recsys.candidates.batches import TrainingBatches
from recsys.candidates.crowd import Crowd
from recsys.candidates.export import export_user_tower, tower_inputs
from recsys.candidates.feedback import Feedback, feedback_of
from recsys.candidates.initial_items import begin_items
from recsys.candidates.item_features import hashed_features
from recsys.candidates.model import CandidateModel
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sequences import (
    Labels,
    Part,
    join_labels,
    join_sequences,
)
from recsys.candidates.side_by_side import SideBySide
from recsys.candidates.sizes import CandidateSizes
from recsys.candidates.vectors import BulkTower, ValidationRanking
from recsys.candidates.weights import IdSpaces, load_weights, save_weights
from recsys.core.random import stream, stream_seed
from recsys.core.training import AfterEpoch, TrainingHistory, train
from recsys.data.examples import TRAINING, VALIDATION
from recsys.data.prepared import Prepared, Shard, load_prepared
from recsys.errors import ConfigError, DataError
from recsys.settings import CandidateSettings, RecsysSettings, SplitSettings

WEIGHTS = "weights.npz"
NEVER = np.iinfo(np.int64).min


def main(settings: RecsysSettings, prepared: Path, out: Path) -> None:
    """Train, and write everything into `out`.

    Raises:
        DataError: The log gives no training label, or no validation label though its split has
            a validation part.
        TrainingError: The training fails, or `out` holds the checkpoint of another one.
        ArtefactError: The exported tower does not compute what Keras computes.
    """
    log = load_prepared(prepared)
    directories = [out] + [
        out / f"member_{number + 1}" for number in range(1, len(settings.candidates.each_member()))
    ]
    nets, histories = train_members(log, settings.candidates, directories, seed=settings.seed)
    inputs = inputs_of(log.shards[0], log, settings.candidates)
    for number, (model, factor) in enumerate(zip(nets.models, nets.factors(), strict=True)):
        save_weights(model, out / _numbered(WEIGHTS, number))
        export_user_tower(model, inputs, out / _numbered("user_tower.onnx", number), factor=factor)
    crowd = served_crowd_of(log, settings.candidates, learned_until=log.data_until)
    vectors = item_vectors(nets, log, crowd)
    np.save(out / "item_vectors.npy", vectors)
    if settings.candidates.training.tensorboard_details:
        write_item_projector(vectors, log, out)
    write_successors(crowd, log, settings.candidates, out / "successors.npy")
    write_user_vectors(nets, log, settings.candidates, out / "user_vectors.parquet")
    described = _describe(nets, settings.candidates, histories[0])
    described |= {"learned_until": _learned_until(log)}
    if len(nets.models) > 1:
        described["validation"] = _validation(nets, log, settings)
    description = json.dumps(described, sort_keys=True, indent=1)
    (out / "model.json").write_text(description + "\n", encoding="utf-8")


def train_members(
    log: Prepared, settings: CandidateSettings, directories: Sequence[Path], *, seed: int
) -> tuple[SideBySide, list[TrainingHistory]]:
    """Train every net of the settings, one after another, each in a directory of its own.

    Returns:
        The nets, and what the training of each did.
    """
    models, histories = [], []
    members = zip(settings.each_member(), directories, strict=True)
    for number, (member, own) in enumerate(members):
        own.mkdir(exist_ok=True)
        model = new_model(log, member, seed=stream_seed(seed, "member", number) if number else seed)
        older = begin(model, log, own, number)
        histories.append(train_model(model, log, own, seed=seed, learned_until=older))
        models.append(model)
    return SideBySide(models), histories


def _numbered(name: str, number: int) -> str:
    """Return the name of the file of a net: `x.npz` of the first, `x_2.npz` of the second."""
    path = Path(name)
    return name if number == 0 else f"{path.stem}_{number + 1}{path.suffix}"


def new_model(log: Prepared, settings: CandidateSettings, *, seed: int) -> CandidateModel:
    """Return an untrained net with the tables that the log needs."""
    context = {name: log.vocabularies[name].num_codes for name in settings.context}
    num_tokens = log.vocabularies["search_token"].num_codes
    features = hashed_features(log.catalogue.table, settings)
    sizes = CandidateSizes(log.catalogue.num_trained, num_tokens, context, features)
    return CandidateModel(settings, sizes, seed=seed)


def begin(model: CandidateModel, log: Prepared, directory: Path, number: int = 0) -> int | None:
    """Let an untrained net begin with what its settings name: an older run, or item vectors.

    Args:
        model: Untrained.
        log: Its log.
        directory: Of its training; what was begun there is gone on with.
        number: Of the net among those side by side, from 0.

    Returns:
        The moment until which it has learned; None for no older run.
    """
    older = warm_start(model, log, number)
    if older is None and model.settings.initial_items != "random":
        begin_items(model, training_labels(log, model.settings), directory, seed=model.seed)
    return older


def warm_start(model: CandidateModel, log: Prepared, number: int) -> int | None:
    """Give a net the weights of the older run that its settings name.

    Args:
        model: Of the same settings as in the older run.
        log: Its log.
        number: Of the net among those side by side, from 0.

    Returns:
        The moment until which that net has learned; None for no older run.

    Raises:
        ArtefactError: The older run is not there, or has no weights.
        TrainingError: Its net has other parts.
    """
    if model.settings.warm_start is None:
        return None
    older = RunPaths(Path(model.settings.warm_start))
    read_identity(older.candidates)
    old_log = load_prepared(older.prepared)
    load_weights(
        model,
        IdSpaces(log.catalogue, log.vocabularies),
        older.candidates / _numbered(WEIGHTS, number),
        IdSpaces(old_log.catalogue, old_log.vocabularies),
    )
    description = json.loads((older.candidates / "model.json").read_text())
    return int(description["learned_until"])


def train_model(
    model: CandidateModel,
    log: Prepared,
    directory: Path,
    *,
    seed: int,
    learned_until: int | None = None,
    after_epoch: AfterEpoch | None = None,
) -> TrainingHistory:
    """Train on the training labels, early stop on the validation labels.

    A log whose split has no validation part is trained on to the end of `max_epochs`: how many,
    was found out before, with one.

    Args:
        model: As it is to begin.
        log: Prepared.
        directory: For checkpoints and curves.
        seed: Of the batches.
        learned_until: Leave out the labels before this moment; None takes all.
    """
    settings = model.settings
    batches = training_batches(log, settings, seed=seed, learned_until=learned_until)
    ranking = validation_ranking(log, settings, seed=seed)
    bulk_tower = BulkTower(model)

    def validate() -> dict[str, float]:
        if ranking is None:
            return {}
        return ranking.metrics(bulk_tower(ranking.inputs), model.item_vectors())

    return train(
        model,
        model.softmax_loss,
        batches,
        validate if ranking is not None else None,
        settings.training,
        monitor=settings.validation_metric,
        larger_is_better=settings.larger_is_better,
        directory=directory,
        seed=seed,
        description="candidate net",
        num_batches=batches.num_batches(),
        after_epoch=after_epoch,
    )


def training_batches(
    log: Prepared, settings: CandidateSettings, *, seed: int, learned_until: int | None = None
) -> TrainingBatches:
    """Return the batches of the training labels, from a moment on where one is given.

    Raises:
        ConfigError: The settings ask for times, and the log has none.
        DataError: There is nothing to learn from.
    """
    labels = training_labels(log, settings, learned_until=learned_until)
    num_trained = log.catalogue.num_trained
    sampler = None
    if settings.loss == "sampled_softmax":
        counts = np.asarray(log.catalogue.watch_counts[:num_trained])
        sampler = NegativeSampler(settings.negatives, counts)
    crowd = crowd_of(log, settings)
    return TrainingBatches(
        join_sequences(_parts(log)), labels, settings, sampler, crowd=crowd, seed=seed
    )


def training_labels(
    log: Prepared, settings: CandidateSettings, *, learned_until: int | None = None
) -> Labels:
    """Return the training watches of trained items, from a moment on where one is given.

    Raises:
        DataError: There is nothing to learn from.
    """
    num_trained = log.catalogue.num_trained
    feedback = [_feedback(shard) for shard in log.shards if settings.policy_gradient is not None]
    labels = join_labels(
        _parts(log), settings, split=TRAINING, num_trained=num_trained, feedback=feedback
    )
    is_new = labels.moment >= (learned_until if learned_until is not None else NEVER)
    labels = labels.take(np.flatnonzero((labels.item >= 0) & is_new))
    _check_not_empty(labels, "training")
    return labels


def _feedback(shard: Shard) -> Feedback:
    table, num_events = shard.events(["propensity"]), len(shard.timelines.item)
    propensity = np.full(num_events, np.nan)
    if "propensity" in table.column_names:
        propensity = table["propensity"].to_numpy().astype(np.float64)
    return feedback_of(shard.candidates, shard.timelines, propensity)


def validation_ranking(
    log: Prepared, settings: CandidateSettings, *, seed: int
) -> ValidationRanking | None:
    """Return the ranking of the validation labels; None where the split has no such part.

    Raises:
        DataError: It has, but there is no label in it.
    """
    split = SplitSettings.model_validate(log.manifest["settings"]["split"])
    if split.kind == "time" and split.validation_from in (None, split.test_from):
        return None
    parts, num_trained = _parts(log), log.catalogue.num_trained
    labels = join_labels(
        parts, settings, split=VALIDATION, num_trained=num_trained, targets_only=True
    )
    _check_not_empty(labels, "validation")
    kept = _some_users(labels.user, settings.validation_users, seed)
    return ValidationRanking(
        join_sequences(parts),
        labels.take(np.flatnonzero(kept)),
        settings,
        crowd=served_crowd_of(log, settings, learned_until=_learned_until(log)),
    )


def item_vectors(nets: SideBySide, log: Prepared, crowd: Crowd) -> np.ndarray:
    """Return the vectors that are served, as of `data_until`: float32 [n, D']."""
    vectors = nets.item_vectors()
    if crowd.popularity is None:
        return vectors
    of_trained = crowd.popularity.columns(log.data_until)
    # An item that nobody has watched is as popular as the least popular.
    others = np.repeat(of_trained.min(axis=0, keepdims=True), len(vectors) - len(of_trained), 0)
    return np.concatenate([vectors, np.concatenate([of_trained, others])], axis=1)


def _validation(nets: SideBySide, log: Prepared, settings: RecsysSettings) -> dict[str, float]:
    """Return the validation metrics of nets side by side; none without a validation part."""
    ranking = validation_ranking(log, settings.candidates, seed=settings.seed)
    if ranking is None:
        return {}
    return ranking.metrics(nets.user_vectors(ranking.inputs), nets.item_vectors())


def crowd_of(log: Prepared, settings: CandidateSettings) -> Crowd:
    """Collect what the net is told of all users.

    Raises:
        ConfigError: The settings ask for times, and the log has none, or the loss no negatives.
    """
    _check_crowd(log, settings)
    return Crowd.of(join_sequences(_parts(log)).histories, log.catalogue.num_trained, settings)


def served_crowd_of(log: Prepared, settings: CandidateSettings, *, learned_until: int) -> Crowd:
    """Collect what is served of all users: a forecast, where the settings have one.

    Raises:
        ConfigError: As of `crowd_of`.
    """
    if settings.forecast_minutes is None:
        return crowd_of(log, settings)
    _check_crowd(log, settings)
    return Crowd.forecast(
        join_sequences(_parts(log)).histories,
        log.catalogue.num_trained,
        settings,
        settings.forecast_minutes,
        learned_until=learned_until,
    )


def _check_crowd(log: Prepared, settings: CandidateSettings) -> None:
    is_timed = all(shard.candidates.has_time.all() for shard in log.shards)
    asked = settings.by_time or settings.popularity_minutes or settings.successor_windows
    if asked and not is_timed:
        raise ConfigError(
            "candidates.by_time, popularity_minutes, successor_windows: expected a log in which "
            "every watch has a time, this one has watches of which it knows only the order; "
            "leave them out"
        )
    asked = settings.popularity_minutes or settings.successor_windows
    if asked and settings.loss != "sampled_softmax":
        raise ConfigError(
            "candidates.popularity_minutes, successor_windows: expected loss = 'sampled_softmax', "
            f"got {settings.loss!r}; change it, or leave them empty"
        )


def _learned_until(log: Prepared) -> int:
    """Return the moment just after the newest training label."""
    newest = [
        int(part.moment[part.split == TRAINING].max(initial=NEVER))
        for part in (shard.candidates for shard in log.shards)
    ]
    return max(newest) + 1


def _parts(log: Prepared) -> list[Part]:
    return [(shard.histories, shard.candidates) for shard in log.shards]


def _check_not_empty(labels: Labels, name: str) -> None:
    if len(labels) == 0:
        raise DataError(
            f"the {name} part of the log has no positive watch to learn from, expected at least "
            f"one: look at the [split] and [data.watch] sections of the configuration"
        )


def _some_users(user: np.ndarray, max_users: int, seed: int) -> np.ndarray:
    """Mark the labels of at most `max_users` random users: int64 [L] -> bool [L]."""
    users = np.unique(user)
    chosen = stream(seed, "validation_users").permutation(users)[:max_users]
    return np.isin(user, chosen)


def _describe(
    nets: SideBySide, settings: CandidateSettings, history: TrainingHistory
) -> dict[str, object]:
    inputs = [name for model in nets.models for name in tower_inputs(model)]
    return {
        "inputs": list(dict.fromkeys(inputs)),
        "context": list(settings.context),
        "history_length": settings.history_length,
        "interests": settings.interests,
        "members": len(nets.models),
        "width": nets.width,
        "similarity": settings.similarity,
        "best_epoch": history.best_epoch,
        "stop": history.stop,
        "validation": history.best_metrics,
    }
