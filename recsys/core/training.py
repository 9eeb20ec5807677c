"""The one training loop of both stages.

Goes in: a built Keras model, a loss over batches, a source of batches, a validation function.
Comes out: the model with its best weights, and `curves.json` in a directory. Below that,
`unfinished/` holds the checkpoints: a training that was killed, or asked to end by SIGTERM or
SIGINT, goes on from there when it is started again, bit for bit.
"""

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from recsys.artefacts import UNFINISHED, hash_json
from recsys.core.backends import ArrayBatch, Loss, Tensor, compile_step, to_numpy
from recsys.core.checkpoint import Checkpoint, Checkpoints, read_variables, write_variables
from recsys.core.interruption import Interruption, noted_signals
from recsys.core.loss_level import LossLevel
from recsys.core.optimizers.by_name import new_optimizer
from recsys.core.optimizers.schedules import new_schedule
from recsys.core.penalties import with_penalties
from recsys.core.tensorboard import Board
from recsys.errors import TrainingError, TrainingInterrupted
from recsys.progress import ProgressTask, progress
from recsys.settings import TrainingSettings

CURVES = "curves.json"
BAD_BATCH = "bad_batch.npz"
"""In `unfinished/`: the batch that ended a training."""
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


AfterEpoch = Callable[[Epoch], None]


@dataclass(frozen=True)
class TrainingHistory:
    """What a training did.

    Args:
        epochs: In order.
        best_epoch: Whose weights the model has: the best, or the last if that is asked for.
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
    validate: Callable[[], dict[str, float]] | None,
    settings: TrainingSettings,
    *,
    monitor: str,
    larger_is_better: bool,
    directory: Path,
    seed: int,
    description: str,
    num_batches: int | None,
    after_epoch: AfterEpoch | None = None,
) -> TrainingHistory:
    """Train a model until it is best by its validation metric; resume what was begun.

    Args:
        model: Built.
        loss: Runs the model on a batch; returns the scalar loss, a mean weighted by the batch's
            `weight`, and further scalars by name. `keras.ops` only.
        batches: epoch -> batches, a pure function of the epoch. Each has an array `weight` (any
            shape, 0 for padding: an example is an entry above 0); shapes repeat from batch to
            batch, since every new shape is compiled anew.
        validate: Measures the model as it is now. None: nothing is held out to measure it on;
            all epochs are trained, and the last weights kept.
        settings: Epochs, batch size, learning rate, limits.
        monitor: Which of the validation metrics says what is best.
        larger_is_better: Of the monitored metric.
        directory: Gets the curves, TensorBoard's files where asked, and the checkpoints.
        seed: What the caller drew its batches from; a checkpoint of another seed is refused.
        description: Shown beside the progress bar.
        num_batches: Steps in an epoch where known; about so many will do.
        after_epoch: Takes each epoch once it is saved, first those that a resumed training has
            behind it. What it raises ends the training, and the epoch is kept.

    Raises:
        TrainingError: A loss or the monitored metric is not finite, the losses have exploded, or
            the checkpoint found does not fit.
        TrainingInterrupted: A signal asked for the end. The last step is finished and saved.
    """
    with noted_signals() as interruption:
        run = _Run(model, loss, settings, directory, seed, num_batches, interruption)
        run.resume()
        if after_epoch:
            for epoch in run.epochs:
                after_epoch(epoch)
        while not run.stop:
            run.train_epoch(batches, f"{description}, epoch {len(run.epochs) + 1}")
            with run.averaged_weights():
                metrics = _checked(validate(), monitor) if validate is not None else {}
                run.keep_if_best(metrics, monitor, larger_is_better)
            run.end_epoch(metrics)
            if after_epoch:
                after_epoch(run.epochs[-1])
    run.write_curves()
    write_variables(model.weights, run.best_weights)
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
        interruption: Interruption,
    ) -> None:
        self.num_batches, self.interruption = num_batches, interruption
        self.model, self.settings, self.directory = model, settings, directory
        self.optimizer = new_optimizer(settings, num_batches)
        self.optimizer.build(model.trainable_variables)
        self.loss, has_norm = with_penalties(model, loss), settings.tensorboard_details
        self.step = compile_step(model, self.loss, self.optimizer, has_norm=has_norm)
        self.fingerprint = _fingerprint(settings, seed)
        self.epochs: list[Epoch] = []
        self.sums, self.level = _Sums(), LossLevel()
        self.best_epoch, self.best_weights = -1, list[np.ndarray]()
        self.stop: Stop = ""
        self.checkpoints = Checkpoints(directory / UNFINISHED, settings.checkpoints_kept)
        self.started = self.saved_at = time.monotonic()
        self.seconds_before = 0.0
        self.board = None
        if settings.tensorboard or settings.tensorboard_details:
            self.board = Board(directory, is_detailed=settings.tensorboard_details)

    def train_epoch(self, batches: Batches, description: str) -> None:
        """Take the epoch's steps from the first that is not yet done."""
        remaining = itertools.islice(batches(len(self.epochs)), self.sums.batches, None)
        with progress(description, self.num_batches) as task:
            task.advance(self.sums.batches)
            while self._take_steps(itertools.islice(remaining, self._steps_to_look()), task):
                # Asked for once: a signal between the two would end it unsaved.
                is_asked = bool(self.interruption.signal_name)
                if is_asked or self._is_save_due():
                    self.save()
                if is_asked:
                    raise self._interrupted()
                if self._is_out_of_time():
                    return

    def _take_steps(self, batches: Iterable[ArrayBatch], task: ProgressTask) -> int:
        """Take some steps, fewer if a signal comes, and look at them; return their number."""
        started = time.monotonic()
        taken = []
        for batch in batches:
            if self.board is not None:
                self.board.write_graph(self.loss, batch)
            taken.append((batch, self.step(batch)))
            if self.interruption.signal_name:
                break
        for batch, (value, figures) in taken:
            self._look_at(batch, {"loss": value, **figures})
        self.sums.step_seconds += time.monotonic() - started
        if taken:
            rate = self.sums.examples / self.sums.step_seconds
            task.advance(len(taken), loss=self.sums.means()["loss"], examples_per_second=rate)
        return len(taken)

    def _look_at(self, batch: ArrayBatch, scalars: Mapping[str, Tensor]) -> None:
        examples = int(np.count_nonzero(batch["weight"]))
        numbers = {name: float(to_numpy(scalar)) for name, scalar in scalars.items()}
        self.sums.batches += 1
        self.level.add(numbers["loss"], examples)
        if problem := self.level.problem(numbers["loss"], self.settings.max_loss_ratio):
            raise self._failure(problem, batch, examples)
        self.sums.add(examples, numbers)

    def _steps_to_look(self) -> int:
        """Return how many steps to take before the next look: a checkpoint is not run over."""
        every = self.settings.checkpoint_steps or LOOK_STEPS
        return min(LOOK_STEPS, every - self.level.steps % every)

    def _is_save_due(self) -> bool:
        steps, seconds = self.settings.checkpoint_steps, self.settings.checkpoint_seconds
        is_at_step = steps is not None and self.level.steps % steps == 0
        return is_at_step or time.monotonic() - self.saved_at >= seconds

    def _interrupted(self) -> TrainingInterrupted:
        return TrainingInterrupted(
            f"{self.interruption.signal_name} came: the training stopped in epoch "
            f"{len(self.epochs) + 1} after {self.sums.batches} steps, and is kept in "
            f"{self.directory}"
        )

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Give the model its running averages for the time of the block, where there are any."""
        if self.settings.average_momentum is None:
            yield
            return
        learned = self.model.trainable_variables
        moving = list(read_variables(learned))
        self.optimizer.finalize_variable_values(learned)
        yield
        write_variables(learned, moving)

    def keep_if_best(self, metrics: dict[str, float], monitor: str, larger_is_better: bool) -> None:
        """Keep the weights of the epoch that ends, if they are to be kept."""
        best = self.epochs[self.best_epoch].metrics if self.best_epoch >= 0 else None
        sign = 1 if larger_is_better else -1
        keeps_all = not metrics or self.settings.keep == "last"
        if not best or keeps_all or sign * metrics[monitor] > sign * best[monitor]:
            self.best_epoch = len(self.epochs)
            # Seeds of dropout are no weights, means of batches are.
            self.best_weights = list(read_variables(self.model.weights))

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Record the epoch, decide whether to stop."""
        sums, self.sums = self.sums, _Sums(began_at=self._elapsed())
        rate = sums.examples / max(sums.step_seconds, 1e-9)
        seconds = self._elapsed() - sums.began_at
        epoch = Epoch(len(self.epochs), sums.means(), metrics, rate, seconds)
        self.epochs.append(epoch)
        self.stop = self._reason_to_stop()
        self._report(epoch)
        self.save()
        if self.interruption.signal_name:
            raise self._interrupted()

    def resume(self) -> None:
        """Take up the checkpoint, where there is one."""
        checkpoint = self.checkpoints.load()
        if checkpoint is None:
            return
        notes = checkpoint.notes
        if notes["fingerprint"] != self.fingerprint:
            raise TrainingError(
                f"{self.directory}: its checkpoint was made with another seed, batch size, "
                f"optimizer, learning rate or its schedule, decay, limits or averages than this "
                f"training has; delete it, or go back to those settings"
            )
        write_variables(self.model.variables, checkpoint.groups["model"])
        write_variables(self.optimizer.variables, checkpoint.groups["optimizer"])
        self.best_weights = list(checkpoint.groups["best"])
        self.epochs = [Epoch(**epoch) for epoch in notes["epochs"]]
        self.sums, self.level = _Sums(**notes["sums"]), LossLevel(**notes["level"])
        self.best_epoch = notes["best_epoch"]
        self.seconds_before = notes["seconds"]
        self.stop = self._reason_to_stop()

    def save(self) -> None:
        """Write a checkpoint and the curves."""
        groups = {
            "model": read_variables(self.model.variables),
            "optimizer": read_variables(self.optimizer.variables),
            "best": self.best_weights,
        }
        notes = {
            "fingerprint": self.fingerprint,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best_epoch": self.best_epoch,
            "sums": asdict(self.sums),
            "level": asdict(self.level),
            "seconds": self._elapsed(),
        }
        self.checkpoints.save(Checkpoint(groups, notes))
        self.write_curves()
        self.saved_at = time.monotonic()

    def write_curves(self) -> None:
        """Write what the epochs so far did, for people and the report."""
        epochs = [asdict(epoch) for epoch in self.epochs]
        curves = {"epochs": epochs, "best_epoch": self.best_epoch, "stop": self.stop}
        text = json.dumps(curves, indent=1, allow_nan=False)
        (self.directory / CURVES).write_text(text + "\n", encoding="utf-8")

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

    def _failure(self, problem: str, batch: ArrayBatch, examples: int) -> TrainingError:
        """Keep the batch of the step looked at last, and say where it stands and what may help."""
        path = self.directory / UNFINISHED / BAD_BATCH
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **batch)  # type: ignore[arg-type]
        first = self.sums.examples + 1
        return TrainingError(
            f"epoch {len(self.epochs) + 1}, step {self.sums.batches} (examples {first:,} to "
            f"{first + examples - 1:,} of the epoch, kept in {path}): {problem}; lower "
            f"learning_rate (now {self.settings.learning_rate:g}), raise warmup_steps (now "
            f"{self.settings.warmup_steps}), or look for extreme values in these examples"
        )

    def _report(self, epoch: Epoch) -> None:
        if self.board is None:
            return
        schedule = new_schedule(self.settings, self.settings.learning_rate, self.num_batches)
        training = epoch.figures | {
            "examples_per_second": epoch.examples_per_second,
            "learning_rate": float(to_numpy(schedule(self.level.steps))),
        }
        scalars = {f"training/{name}": value for name, value in training.items()}
        scalars |= {f"validation/{name}": value for name, value in epoch.metrics.items()}
        self.board.write_scalars(epoch.epoch, scalars)
        self.board.write_tables(epoch.epoch, self.model.trainable_variables)


def _fingerprint(settings: TrainingSettings, seed: int) -> str:
    """Hash what decides the course of a training; its limits do not, and may be moved."""
    names = {"batch_size", "optimizer", "learning_rate", "warmup_steps", "decay", "weight_decay"}
    names |= {"clip_norm", "clip_value", "average_momentum"}
    names |= {"table_optimizer", "table_learning_rate"}
    if settings.decay != "none":
        names |= {"max_epochs", "last_share"}
    return hash_json({"seed": seed, **settings.model_dump(include=names)})


def _checked(metrics: dict[str, float], monitor: str) -> dict[str, float]:
    if math.isfinite(metrics.get(monitor, math.nan)):
        return metrics
    raise TrainingError(
        f"the validation gives {monitor} = {metrics.get(monitor)}, expected a finite number: the "
        f"validation part of the split may be empty (metrics given: {metrics})"
    )
