"""The one training loop of both stages.

Goes in: a built Keras model, a loss over batches, a source of batches, a validation function.
Comes out: the model with its best weights, `checkpoint.npz` and `curves.json` in a directory. A
killed run that is started again goes on where its checkpoint left off, bit for bit.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from tensorboard.summary import Writer

from recsys.artefacts import hash_json
from recsys.core.backends import ArrayBatch, Loss, compile_step, to_numpy
from recsys.core.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_variables,
    save_checkpoint,
    write_variables,
)
from recsys.core.optimizers.adam import new_optimizer
from recsys.errors import TrainingError
from recsys.progress import ProgressTask, progress
from recsys.settings import TrainingSettings

CHECKPOINT = "checkpoint.npz"
CURVES = "curves.json"
LOOK_STEPS = 16
"""Losses are looked at this many steps at a time: to look is to wait for the device."""

Batches = Callable[[int], Iterable[dict[str, np.ndarray]]]
Stop = Literal["", "max_epochs", "patience", "max_seconds"]


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Args:
        epoch: From 0.
        figures: Means over the epoch's examples: `loss`, and what else the loss function reports.
        metrics: Of the validation at its end.
        examples_per_second: Of the steps alone, without the validation.
        seconds: Of the whole epoch.
    """

    epoch: int
    figures: dict[str, float]
    metrics: dict[str, float]
    examples_per_second: float
    seconds: float


@dataclass(frozen=True)
class TrainingHistory:
    """What a training did.

    Args:
        epochs: In order.
        best_epoch: Whose weights the model has.
        stop: Why it ended.
    """

    epochs: Sequence[Epoch]
    best_epoch: int
    stop: Stop

    @property
    def best_metrics(self) -> dict[str, float]:
        """Validation metrics of the weights that the model has."""
        return self.epochs[self.best_epoch].metrics


def train(
    model: keras.Model,
    loss: Loss,
    batches: Batches,
    validate: Callable[[], dict[str, float]],
    settings: TrainingSettings,
    *,
    monitor: str,
    larger_is_better: bool,
    directory: Path,
    seed: int,
    description: str,
    num_batches: int | None,
) -> TrainingHistory:
    """Train a model until it is best by its validation metric; resume what was begun.

    Args:
        model: Built.
        loss: Runs the model on a batch; returns the scalar loss, a mean weighted by the batch's
            `weight`, and further scalars by name. `keras.ops` only.
        batches: epoch -> batches, a pure function of the epoch. Each has an array `weight` (any
            shape, 0 for padding: an example is an entry above 0); shapes repeat from batch to
            batch, since every new shape is compiled anew.
        validate: Measures the model as it is now.
        settings: Epochs, batch size, learning rate, limits.
        monitor: Which of the validation metrics says what is best.
        larger_is_better: Of the monitored metric.
        directory: Gets the checkpoint, the curves, and TensorBoard's files where asked.
        seed: What the caller drew its batches from; a checkpoint of another seed is refused.
        description: Shown beside the progress bar.
        num_batches: Steps in an epoch where known; about so many will do.

    Raises:
        TrainingError: A loss or the monitored metric is not finite, or the checkpoint found does
            not fit.
    """
    run = _Run(model, loss, settings, directory, seed, num_batches)
    run.resume()
    while not run.stop:
        run.train_epoch(batches, f"{description}, epoch {len(run.epochs) + 1}")
        run.end_epoch(_checked(validate(), monitor), monitor, larger_is_better)
    write_variables(model.trainable_variables, run.best_weights)
    return TrainingHistory(run.epochs, run.best_epoch, run.stop)


@dataclass
class _Sums:
    """Running totals of an epoch under way."""

    batches: int = 0
    examples: int = 0
    step_seconds: float = 0.0
    began_at: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, examples: int, figures: dict[str, float]) -> None:
        self.examples += examples
        for name, value in figures.items():
            self.figures[name] = self.figures.get(name, 0.0) + value * examples

    def means(self) -> dict[str, float]:
        return {name: value / max(self.examples, 1) for name, value in self.figures.items()}


class _Run:
    """A training under way: everything that changes, and that a checkpoint has to hold."""

    def __init__(
        self,
        model: keras.Model,
        loss: Loss,
        settings: TrainingSettings,
        directory: Path,
        seed: int,
        num_batches: int | None,
    ) -> None:
        self.num_batches = num_batches
        self.model, self.settings, self.directory = model, settings, directory
        self.optimizer = new_optimizer(settings, num_batches)
        self.optimizer.build(model.trainable_variables)
        self.step = compile_step(model, loss, self.optimizer)
        self.fingerprint = _fingerprint(settings, seed)
        self.epochs: list[Epoch] = []
        self.sums = _Sums()
        self.best_epoch, self.best_weights = -1, read_variables(model.trainable_variables)
        self.stop: Stop = ""
        self.started = self.saved_at = time.monotonic()
        self.seconds_before = 0.0
        self.writer = Writer(str(directory / "tensorboard")) if settings.tensorboard else None

    def train_epoch(self, batches: Batches, description: str) -> None:
        """Take the epoch's steps from the first that is not yet done."""
        remaining = itertools.islice(batches(len(self.epochs)), self.sums.batches, None)
        with progress(description, self.num_batches) as task:
            task.advance(self.sums.batches)
            while chunk := list(itertools.islice(remaining, LOOK_STEPS)):
                self._take_steps(chunk, task)
                if time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds:
                    self.save()
                if self._is_out_of_time():
                    return

    def _take_steps(self, chunk: Sequence[ArrayBatch], task: ProgressTask) -> None:
        started = time.monotonic()
        results = [self.step(batch) for batch in chunk]
        for batch, (value, figures) in zip(chunk, results, strict=True):
            self.sums.batches += 1
            read = {"loss": value, **figures}
            numbers = {name: float(to_numpy(scalar)) for name, scalar in read.items()}
            self._check_finite(numbers["loss"])
            self.sums.add(int(np.count_nonzero(batch["weight"])), numbers)
        self.sums.step_seconds += time.monotonic() - started
        rate = self.sums.examples / self.sums.step_seconds
        task.advance(len(chunk), loss=self.sums.means()["loss"], examples_per_second=rate)

    def end_epoch(self, metrics: dict[str, float], monitor: str, larger_is_better: bool) -> None:
        """Record the epoch, keep its weights if they are the best, decide whether to stop."""
        sums, self.sums = self.sums, _Sums(began_at=self._elapsed())
        rate = sums.examples / max(sums.step_seconds, 1e-9)
        seconds = self._elapsed() - sums.began_at
        epoch = Epoch(len(self.epochs), sums.means(), metrics, rate, seconds)
        self.epochs.append(epoch)
        best = self.epochs[self.best_epoch].metrics[monitor] if self.best_epoch >= 0 else None
        sign = 1 if larger_is_better else -1
        if best is None or sign * metrics[monitor] > sign * best:
            self.best_epoch = epoch.epoch
            self.best_weights = read_variables(self.model.trainable_variables)
        self.stop = self._reason_to_stop()
        self._report(epoch)
        self.save()

    def resume(self) -> None:
        """Take up the checkpoint, where there is one."""
        path = self.directory / CHECKPOINT
        checkpoint = load_checkpoint(path)
        if checkpoint is None:
            return
        notes = checkpoint.notes
        if notes["fingerprint"] != self.fingerprint:
            raise TrainingError(
                f"{path}: made with another seed, batch size, learning rate or its schedule, or "
                f"weight decay than this training has; delete it, or go back to those settings"
            )
        write_variables(self.model.variables, checkpoint.groups["model"])
        write_variables(self.optimizer.variables, checkpoint.groups["optimizer"])
        self.best_weights = list(checkpoint.groups["best"])
        self.epochs = [Epoch(**epoch) for epoch in notes["epochs"]]
        self.sums, self.best_epoch = _Sums(**notes["sums"]), notes["best_epoch"]
        self.seconds_before = notes["seconds"]
        self.stop = self._reason_to_stop()

    def save(self) -> None:
        """Write the checkpoint and the curves."""
        groups = {
            "model": read_variables(self.model.variables),
            "optimizer": read_variables(self.optimizer.variables),
            "best": self.best_weights,
        }
        epochs = [asdict(epoch) for epoch in self.epochs]
        notes = {
            "fingerprint": self.fingerprint,
            "epochs": epochs,
            "best_epoch": self.best_epoch,
            "sums": asdict(self.sums),
            "seconds": self._elapsed(),
        }
        save_checkpoint(self.directory / CHECKPOINT, Checkpoint(groups, notes))
        curves = {"epochs": epochs, "best_epoch": self.best_epoch, "stop": self.stop}
        text = json.dumps(curves, indent=1, allow_nan=False)
        (self.directory / CURVES).write_text(text + "\n", encoding="utf-8")
        self.saved_at = time.monotonic()

    def _elapsed(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _is_out_of_time(self) -> bool:
        limit = self.settings.max_seconds
        return limit is not None and self._elapsed() >= limit

    def _reason_to_stop(self) -> Stop:
        if len(self.epochs) >= self.settings.max_epochs:
            return "max_epochs"
        if len(self.epochs) - 1 - self.best_epoch >= self.settings.patience:
            return "patience"
        return "max_seconds" if self.epochs and self._is_out_of_time() else ""

    def _check_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        raise TrainingError(
            f"epoch {len(self.epochs) + 1}, step {self.sums.batches}: the loss is {loss}, expected "
            f"a finite number; lower learning_rate (now {self.settings.learning_rate:g}), raise "
            f"warmup_steps (now {self.settings.warmup_steps}), or look for extreme values in the "
            f"log"
        )

    def _report(self, epoch: Epoch) -> None:
        if self.writer is None:
            return
        scalars = epoch.figures | {"examples_per_second": epoch.examples_per_second}
        for name, value in scalars.items():
            self.writer.add_scalar(f"training/{name}", value, epoch.epoch)
        for name, value in epoch.metrics.items():
            self.writer.add_scalar(f"validation/{name}", value, epoch.epoch)
        self.writer.flush()


def _fingerprint(settings: TrainingSettings, seed: int) -> str:
    """Hash what decides the course of a training; its limits do not, and may be moved."""
    names = {"batch_size", "learning_rate", "warmup_steps", "linear_decay", "weight_decay"}
    names |= {"table_optimizer", "table_learning_rate"}
    if settings.linear_decay:
        names.add("max_epochs")
    return hash_json({"seed": seed, **settings.model_dump(include=names)})


def _checked(metrics: dict[str, float], monitor: str) -> dict[str, float]:
    if math.isfinite(metrics.get(monitor, math.nan)):
        return metrics
    raise TrainingError(
        f"the validation gives {monitor} = {metrics.get(monitor)}, expected a finite number: the "
        f"validation part of the split may be empty (metrics given: {metrics})"
    )
