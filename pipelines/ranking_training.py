"""One training of the ranking net: its rows and batches, its validation, its refit."""

from pathlib import Path

import numpy as np

from recsys.core.backends import compile_call
from recsys.core.random import stream
from recsys.core.training import AfterEpoch, TrainingHistory, train
from recsys.data.examples import TRAINING, VALIDATION
from recsys.errors import DataError
from recsys.evaluation.ranking import gauc, mae, seconds_ratio, xauc
from recsys.ranking.batches import RankingBatches
from recsys.ranking.calibration import Calibration, fit_calibration
from recsys.ranking.ensemble import RankingEnsemble
from recsys.ranking.heads import fit_heads
from recsys.ranking.model import RankingModel, Scales, outputs_and_losses, quantiles
from recsys.ranking.rows import RankingRows
from recsys.ranking.spec import FeatureSpec, duration_seconds, model_inputs
from recsys.ranking.tables import table_sizes
from recsys.settings import RankingSettings

MAX_QUANTILE_ROWS = 200_000
"""Training rows that quantiles are taken from; more would not move them."""


def train_model(
    rows: RankingRows,
    spec: FeatureSpec,
    settings: RankingSettings,
    directory: Path,
    *,
    seed: int,
    drawn: np.ndarray | None = None,
    after_epoch: AfterEpoch | None = None,
) -> tuple[RankingModel, TrainingHistory]:
    """Train on the training rows, early stop on the validation rows.

    Args:
        rows: All rows.
        spec: Of their features.
        settings: Of the net and its training.
        directory: For checkpoints and curves.
        seed: Of initial values, dropout and order.
        drawn: int64 [n], rows to learn from in place of all training rows; a row may come twice.
        after_epoch: As `recsys.core.training.train` has it.
    """
    chosen = rows_of(rows, TRAINING, "training")
    model, batches = model_and_batches(rows, chosen, spec, settings, seed, drawn=drawn)
    history = train(
        model,
        model.loss_of,
        batches,
        Validation(model, rows).metrics,
        settings.training,
        monitor=settings.validation_metric,
        larger_is_better=settings.larger_is_better,
        directory=directory,
        seed=seed,
        description="ranking net",
        num_batches=len(batches),
        after_epoch=after_epoch,
    )
    return model, history


def refit(
    rows: RankingRows,
    spec: FeatureSpec,
    settings: RankingSettings,
    directory: Path,
    num_epochs: int,
    seed: int,
) -> RankingModel:
    """Train anew on training and validation rows, for a number of epochs that is known.

    Args:
        rows: All rows.
        spec: Of their features.
        settings: As for the training that found the number.
        directory: For checkpoints and curves.
        num_epochs: A decay of the learning rate ends after these.
        seed: Of initial values, dropout and order.
    """
    directory.mkdir(exist_ok=True)
    model, batches = model_and_batches(rows, np.arange(len(rows)), spec, settings, seed)
    train(
        model,
        model.loss_of,
        batches,
        None,
        settings.training.model_copy(update={"max_epochs": num_epochs}),
        monitor=settings.validation_metric,
        larger_is_better=settings.larger_is_better,
        directory=directory,
        seed=seed,
        description="ranking net, refitted",
        num_batches=len(batches),
    )
    return model


def model_and_batches(
    rows: RankingRows,
    chosen: np.ndarray,
    spec: FeatureSpec,
    settings: RankingSettings,
    seed: int,
    *,
    drawn: np.ndarray | None = None,
) -> tuple[RankingModel, RankingBatches]:
    """Make a net for the chosen rows, and their batches: or those of rows drawn from them."""
    scales = _scales(rows, chosen, settings.num_quantiles, seed)
    heads = fit_heads(
        tuple(settings.heads.on()),
        rows.watch_ms[chosen] / 1000,
        duration_seconds(rows.features, spec)[chosen, 0],
        num_thresholds=settings.num_thresholds,
        num_duration_groups=settings.num_duration_groups,
    )
    sizes = table_sizes(
        spec,
        scale=settings.embedding_scale,
        max_width=settings.max_embedding_width,
        has_item_ids=settings.item_ids,
    )
    model = RankingModel(settings, spec, scales, heads, sizes, seed=seed)
    batches = RankingBatches(
        rows,
        chosen if drawn is None else drawn,
        settings.training.batch_size,
        heads=heads,
        spec=spec,
        users_together=settings.pairwise_weight > 0,
        seed=seed,
    )
    return model, batches


class Validation:
    """The validation rows, scored by a model as it is at each call.

    Args:
        model: Its weights are read at each call.
        rows: All rows.
        split: Of the rows; those of another part can be scored too.

    Attributes:
        chosen: int64 [n], the validation rows among all.

    Raises:
        DataError: There are no such rows.
    """

    def __init__(
        self,
        model: RankingModel | RankingEnsemble,
        rows: RankingRows,
        split: int = VALIDATION,
    ) -> None:
        self._model, self._heads = model, model.heads
        self.chosen = rows_of(rows, split, "validation" if split == VALIDATION else "training")
        self._rows = rows
        self._outputs = compile_call(model, lambda batch: outputs_and_losses(model, batch))
        self._batches = RankingBatches(
            rows,
            self.chosen,
            model.settings.training.batch_size,
            heads=model.heads,
            spec=model.spec,
            users_together=False,
            seed=0,
        )

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """Features of the validation rows, as the net takes them."""
        features = self._rows.features
        return {name: features[name][self.chosen] for name in model_inputs(features)}

    def expected_seconds(self) -> np.ndarray:
        """Return what the net expects of each row, uncalibrated: float32 [n]."""
        return self._values(self._score())["expected_seconds"]

    def calibration(self) -> Calibration:
        """Fit the factors on the expected seconds."""
        return fit_calibration(
            self.expected_seconds(),
            self._seconds(),
            self.inputs,
            self._model.spec,
            calibrate_durations=self._model.settings.calibrate_durations,
        )

    def metrics(self, calibration: Calibration | None = None) -> dict[str, float]:
        """Measure all heads; `loss` is the weighted sum of theirs. What is undefined is absent."""
        score, seconds = self._score(), self._seconds()
        values = self._values(score)
        expected = values["expected_seconds"]
        if calibration is not None:
            expected = expected * calibration.factors_of(self.inputs)[:, 0]
        completed, user = self._rows.completed[self.chosen], self._rows.user[self.chosen]
        known = completed >= 0
        head_losses = dict(
            zip(self._heads.names, score[:, self._heads.num_outputs :].mean(axis=0), strict=True)
        )
        weights = self._model.objective.weights
        found = {
            "loss": sum(weights[name] * loss for name, loss in head_losses.items()),
            **{f"{name}_loss": loss for name, loss in head_losses.items()},
            "mae_seconds": mae(seconds, values["median_seconds"]),
            "xauc": xauc(seconds, expected).ties_dropped,
            "xauc_median": xauc(seconds, values["median_seconds"]).ties_dropped,
            "gauc": gauc(user[known], completed[known] > 0, values["completion"][known]),
            "seconds_ratio": seconds_ratio(seconds, expected),
        }
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}

    def _score(self) -> np.ndarray:
        """Return raw outputs and losses of the heads: float32 [R, K + H]."""
        parts = [self._outputs(batch) for batch in self._batches.in_order()]
        return np.concatenate(parts)[: len(self.chosen)]

    def _values(self, score: np.ndarray) -> dict[str, np.ndarray]:
        duration = duration_seconds(self._rows.features, self._model.spec)[self.chosen, 0]
        return self._heads.values(score[:, : self._heads.num_outputs], duration)

    def _seconds(self) -> np.ndarray:
        return self._rows.watch_ms[self.chosen] / 1000


def rows_of(rows: RankingRows, split: int, name: str) -> np.ndarray:
    """Return the rows of a part of the split: int64 [n].

    Args:
        rows: All rows.
        split: Value of the part.
        name: Of the part, for the error.

    Raises:
        DataError: It has none of known watch time.
    """
    chosen = np.flatnonzero(rows.split == split)
    if len(chosen) == 0:
        raise DataError(
            f"the {name} part of the log has no impression of known watch time, expected at least "
            f"one: look at the [split] section of the configuration, or set ranking.enabled = false"
        )
    return chosen


def quantile_rows(chosen: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows that quantiles are taken from: int64 [n], sorted if they are not all."""
    if len(chosen) <= MAX_QUANTILE_ROWS:
        return chosen
    rng = stream(seed, "quantile_rows")
    return np.sort(rng.choice(chosen, MAX_QUANTILE_ROWS, replace=False))


def _scales(rows: RankingRows, chosen: np.ndarray, num_quantiles: int, seed: int) -> Scales:
    sample = quantile_rows(chosen, seed)
    return Scales(
        quantiles(rows.features["user_numeric"][sample], num_quantiles),
        quantiles(rows.features["candidate_numeric"][sample, 0], num_quantiles),
    )
