"""Train the neural process on a prepared directory; write what a server needs to run it.

neural_process.onnx  the net, seen to compute what Keras computes
spread.json          factors on its deviation, fitted on the validation part
features.json        names and sizes of its inputs
validation.json      metrics of the validation part, coverage after calibration among them
curves.json          how the training went
unfinished/          checkpoints to go on from; the mapped rows while it runs
"""

from pathlib import Path

import numpy as np

from pipelines.ranking_training import quantile_rows, rows_of
from pipelines.train_ranking import scratch_directory, spec_of, write_validation
from recsys.artefacts import UNFINISHED
from recsys.core.backends import compile_call
from recsys.core.random import stream
from recsys.core.training import AfterEpoch, TrainingHistory, train
from recsys.data.examples import TRAINING, VALIDATION
from recsys.data.prepared import load_prepared
from recsys.exploration.batches import ExplorationBatches
from recsys.exploration.calibration import FIRST_SIZES, Spread, fit_spread
from recsys.exploration.export import export_process
from recsys.exploration.features import target_numeric
from recsys.exploration.neural_process import NeuralProcess, Scales
from recsys.exploration.predictor import GRAPH, SPEC, SPREAD
from recsys.exploration.rows import ExplorationRows, exploration_rows
from recsys.ranking.items import ItemFeatures
from recsys.ranking.model import quantiles
from recsys.ranking.tables import table_sizes
from recsys.settings import ExplorationSettings, RecsysSettings

MONITOR = "outcome_loss"
NUM_CHECKED = 64
"""Rows that the exported graph is compared on."""


def main(settings: RecsysSettings, prepared: Path, out: Path) -> None:
    """Train, calibrate, export: everything is written into `out`.

    Raises:
        DataError: The log gives no impression to train on, or none to validate on.
        TrainingError: The training fails, or `out` holds the checkpoint of another one.
        ArtefactError: The exported net does not compute what Keras computes.
    """
    log = load_prepared(prepared)
    items = ItemFeatures.build(log.catalogue, log.vocabularies, settings.ranking)
    spec = spec_of(log, items, settings.ranking)
    splits, length = (TRAINING, VALIDATION), settings.exploration.context_length
    with scratch_directory(out / UNFINISHED / "rows") as scratch:
        rows = exploration_rows(log, items, spec, splits, length, scratch)
        model, history = train_exploration(rows, settings.exploration, out, seed=settings.seed)
        finish(model, history, rows, out, seed=settings.seed)


def train_exploration(
    rows: ExplorationRows,
    settings: ExplorationSettings,
    directory: Path,
    *,
    seed: int,
    after_epoch: AfterEpoch | None = None,
) -> tuple[NeuralProcess, TrainingHistory]:
    """Train on the training rows, early stop on the validation rows' likelihood.

    Args:
        rows: Of both.
        settings: Of the net and its training.
        directory: For checkpoints and curves.
        seed: Of initial values, dropout, order, and sizes of contexts.
        after_epoch: Takes each epoch.
    """
    chosen = rows_of(rows.impressions, TRAINING, "training")
    model = new_model(rows, chosen, settings, seed=seed)
    batches = ExplorationBatches(
        rows, chosen, settings.training.batch_size, order=settings.context_order, seed=seed
    )
    history = train(
        model,
        model.loss_of,
        batches,
        Validation(model, rows).metrics,
        settings.training,
        monitor=MONITOR,
        larger_is_better=False,
        directory=directory,
        seed=seed,
        description="neural process",
        num_batches=len(batches),
        after_epoch=after_epoch,
    )
    return model, history


def finish(
    model: NeuralProcess,
    history: TrainingHistory,
    rows: ExplorationRows,
    out: Path,
    *,
    seed: int,
) -> Spread:
    """Calibrate the trained net on the validation rows, and write all files of it."""
    validation = rows_of(rows.impressions, VALIDATION, "validation")
    spread = calibrate(model, rows, seed=seed)
    checked = validation[:NUM_CHECKED]
    export_process(model, rows.inputs(checked, rows.context[checked]), out / GRAPH)
    model.spec.save(out / SPEC)
    spread.save(out / SPREAD)
    write_validation(history.best_metrics, history, out / "validation.json")
    return spread


def new_model(
    rows: ExplorationRows, chosen: np.ndarray, settings: ExplorationSettings, *, seed: int
) -> NeuralProcess:
    """Make a net for the chosen rows."""
    spec, outcome = rows.spec, rows.log_seconds[chosen]
    columns = [spec.item_numeric.index(name) for name in target_numeric(spec)]
    numeric = rows.impressions.features["candidate_numeric"][quantile_rows(chosen, seed), 0]
    scales = Scales(
        quantiles=quantiles(numeric[:, columns], settings.num_quantiles),
        mean=float(outcome.mean()),
        deviation=max(float(outcome.std()), 1e-6),
    )
    sizes = table_sizes(
        spec,
        scale=settings.embedding_scale,
        max_width=settings.max_embedding_width,
        has_item_ids=True,
    )
    return NeuralProcess(settings, spec, scales, sizes, seed=seed)


def calibrate(model: NeuralProcess, rows: ExplorationRows, *, seed: int) -> Spread:
    """Fit the factors of the spread on the validation rows, cut to the sizes of each band.

    A row counts in every band that its context reaches into, with a size drawn evenly from the
    band: few users have long contexts, and what is asked about is the size.
    """
    call = compile_call(model, lambda batch: model(batch)[:, 0])
    rng = stream(seed, "calibration")
    sizes, longest = rows.context_sizes(), rows.context.shape[1]
    batch_size = model.settings.training.batch_size
    residuals = []
    for first, last in zip(FIRST_SIZES, (*FIRST_SIZES[1:], longest + 1), strict=True):
        own = np.flatnonzero((rows.impressions.split == VALIDATION) & (sizes >= first))
        most = np.maximum(np.minimum(sizes, last - 1), first)
        cut = rows.cut(rng.integers(first, most + 1))
        batches = ExplorationBatches(cut, own, batch_size, order="newest", seed=seed)
        found = np.concatenate([call(batch) for batch in batches.in_order()] or [np.zeros((0, 3))])
        mean, deviation = found[: len(own), 0], found[: len(own), 1]
        residuals.append((rows.log_seconds[own] - mean) / deviation)
    return fit_spread(residuals, FIRST_SIZES)


class Validation:
    """The validation rows, their contexts cut to random sizes, always the same.

    Args:
        model: Its weights are read at each call.
        rows: All rows.
    """

    def __init__(self, model: NeuralProcess, rows: ExplorationRows) -> None:
        self._chosen = rows_of(rows.impressions, VALIDATION, "validation")
        self._losses = compile_call(model, model.row_losses)
        cut = rows.cut(stream(0, "validation_sizes").integers(0, rows.context_sizes() + 1))
        batch_size = model.settings.training.batch_size
        self._batches = ExplorationBatches(cut, self._chosen, batch_size, order="newest", seed=0)

    def metrics(self) -> dict[str, float]:
        """Return the mean negative log-likelihoods of watch time and completion."""
        parts = [self._losses(batch) for batch in self._batches.in_order()]
        outcome, completion = np.concatenate(parts)[: len(self._chosen)].mean(axis=0)
        return {MONITOR: float(outcome), "completion_loss": float(completion)}
