"""The optimizer that the settings ask for: Keras's by name, with a schedule, limits and averages.

For the tables, when asked, a rule of ours that changes rows of the batch only.

References:
    Duchi, Hazan & Singer 2011 (AdaGrad). Zeiler 2012 (AdaDelta). Tieleman & Hinton 2012 (RMSProp).
    Kingma & Ba 2015 (Adam). Loshchilov & Hutter 2019 (AdamW). Nesterov 1983, Sutskever et al. 2013
    (momentum). Polyak & Juditsky 1992 (averages of weights).
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from recsys.core.backends import Optimizer
from recsys.core.optimizers.clipping import Clipped
from recsys.core.optimizers.row_rules import Adagrad, LazyAdam, RowAdagrad, TableRule
from recsys.core.optimizers.row_sparse import RowSparse
from recsys.core.optimizers.schedules import Schedule, new_schedule
from recsys.settings import TrainingSettings

TABLE_RULES: Mapping[str, TableRule] = {
    "lazy_adam": LazyAdam(),
    "row_adagrad": RowAdagrad(),
    "adagrad": Adagrad(),
}
MOMENTUM = 0.9
FIRST_ACCUMULATOR = 1e-8
"""Of AdaGrad: Keras's .1 would drown the squares that come from the mean over a batch."""


def new_optimizer(settings: TrainingSettings, num_batches: int | None) -> Optimizer:
    """Return the optimizer of a training.

    Args:
        settings: Which, its rate and schedule, decay, limits, averages; the rule of the tables.
        num_batches: Steps in an epoch; a decay of the learning rate needs it.
    """
    schedule = new_schedule(settings, settings.learning_rate, num_batches)
    optimizer: Optimizer = _new_dense(settings, schedule)
    if settings.table_optimizer != "adam":
        rate = settings.table_learning_rate or settings.learning_rate
        table_schedule = new_schedule(settings, rate, num_batches)
        rule = TABLE_RULES[settings.table_optimizer]
        optimizer = RowSparse(rule, table_schedule, optimizer)
    if settings.clip_norm is None and settings.clip_value is None:
        return optimizer
    return Clipped(optimizer, largest_norm=settings.clip_norm, largest_value=settings.clip_value)


def _new_dense(settings: TrainingSettings, schedule: Schedule) -> keras.Optimizer:
    options: dict[str, Any] = {"weight_decay": settings.weight_decay or None}
    if settings.average_momentum is not None:
        options |= {"use_ema": True, "ema_momentum": settings.average_momentum}
    return _DENSE[settings.optimizer](schedule, **options)


def _adam(schedule: Schedule, **options: Any) -> keras.Optimizer:
    # With a weight decay, Adam is AdamW: decoupled decay is the one that Keras has.
    kind = keras.optimizers.AdamW if options["weight_decay"] else keras.optimizers.Adam
    return kind(schedule, **options)


_DENSE: Mapping[str, Callable[..., keras.Optimizer]] = {
    "sgd": keras.optimizers.SGD,
    "momentum": lambda schedule, **options: keras.optimizers.SGD(schedule, MOMENTUM, **options),
    "nesterov": lambda schedule, **options: keras.optimizers.SGD(
        schedule, MOMENTUM, nesterov=True, **options
    ),
    "adagrad": lambda schedule, **options: keras.optimizers.Adagrad(
        schedule, FIRST_ACCUMULATOR, **options
    ),
    "rmsprop": keras.optimizers.RMSprop,
    "adam": _adam,
    "adamw": _adam,
    "adadelta": keras.optimizers.Adadelta,
}
