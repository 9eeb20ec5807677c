"""The optimizer that the settings ask for, and its schedule.

Adam (Kingma & Ba 2015), with decoupled weight decay (Loshchilov & Hutter 2019) when asked; for the
tables, when asked, a rule that changes rows of the batch only.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from recsys.core.backends import Optimizer
from recsys.core.optimizers.row_rules import Adagrad, LazyAdam, RowAdagrad, TableRule
from recsys.core.optimizers.row_sparse import RowSparse
from recsys.settings import TrainingSettings

TABLE_RULES: Mapping[str, TableRule] = {
    "lazy_adam": LazyAdam(),
    "row_adagrad": RowAdagrad(),
    "adagrad": Adagrad(),
}


class LinearSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Learning rate that climbs linearly over the first steps, and may fall linearly to 0.

    Args:
        learning_rate: Reached at the end of the warm-up.
        warmup_steps: 0 for none.
        num_steps: Where a decay ends; None for none.
    """

    def __init__(self, learning_rate: float, warmup_steps: int, num_steps: int | None) -> None:
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.num_steps = num_steps

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step, counted from 0."""
        done = ops.cast(step, "float32")
        share = ops.minimum((done + 1.0) / max(self.warmup_steps, 1), 1.0)
        if self.num_steps is not None:
            share = share * ops.maximum(1.0 - done / self.num_steps, 0.0)
        return self.learning_rate * share

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "num_steps": self.num_steps,
        }


def new_optimizer(settings: TrainingSettings, num_batches: int | None) -> Optimizer:
    """Return Adam, or AdamW where the settings have a weight decay; tables may have another rule.

    Args:
        settings: Learning rates, warm-up, decay, rule of the tables.
        num_batches: Steps in an epoch; a decay of the learning rate needs it.
    """
    if settings.linear_decay and num_batches is None:
        raise ValueError("linear_decay needs the number of batches in an epoch, got None")
    num_steps = settings.max_epochs * (num_batches or 0) if settings.linear_decay else None
    schedule = LinearSchedule(settings.learning_rate, settings.warmup_steps, num_steps)
    if settings.weight_decay:
        dense = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay)
    else:
        dense = keras.optimizers.Adam(schedule)
    if settings.table_optimizer == "adam":
        return dense
    rate = settings.table_learning_rate or settings.learning_rate
    table_schedule = LinearSchedule(rate, settings.warmup_steps, num_steps)
    return RowSparse(TABLE_RULES[settings.table_optimizer], table_schedule, dense)
