"""The learning rate over a training: Keras's schedules by name, behind a warm-up that is ours.

Keras's cosine alone has a warm-up, and it pushes the decay back by as many steps; here a decay ends
with the training whatever the warm-up.
"""

from typing import Any, TypeAlias

import keras
from keras import ops

from recsys.settings import TrainingSettings

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule


class WarmUp(Schedule):  # type: ignore[misc]
    """A schedule times a share that climbs along a line to 1 (Goyal et al. 2017, section 2.2).

    Args:
        schedule: Rate at a step, counted from 0; a number for one that is always the same.
        warmup_steps: 0 for none.
    """

    def __init__(self, schedule: Schedule | float, warmup_steps: int) -> None:
        self.schedule, self.warmup_steps = schedule, warmup_steps

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step, counted from 0."""
        done = ops.cast(step, "float32")
        share = ops.minimum((done + 1.0) / max(self.warmup_steps, 1), 1.0)
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        return rate * share

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"schedule": self.schedule, "warmup_steps": self.warmup_steps}


def new_schedule(
    settings: TrainingSettings, learning_rate: float, num_batches: int | None
) -> WarmUp:
    """Return the schedule that the settings ask for.

    Args:
        settings: Its shape, warm-up, number of epochs.
        learning_rate: Of the first step, but for the warm-up.
        num_batches: Steps in an epoch; a decay needs it.
    """
    if settings.decay == "none":
        return WarmUp(learning_rate, settings.warmup_steps)
    if num_batches is None:
        raise ValueError(
            f"decay = {settings.decay!r} needs the number of batches in an epoch, got None"
        )
    num_steps = max(1, settings.max_epochs * num_batches)
    schedules = keras.optimizers.schedules
    if settings.decay == "linear":
        schedule = schedules.PolynomialDecay(learning_rate, num_steps, end_learning_rate=0.0)
    elif settings.decay == "cosine":
        schedule = schedules.CosineDecay(learning_rate, num_steps)
    else:
        schedule = schedules.ExponentialDecay(learning_rate, num_steps, settings.last_share)
    return WarmUp(schedule, settings.warmup_steps)
