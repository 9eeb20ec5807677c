"""What layers hold against their own weights (`settings.layers`), added to a loss."""

import keras

from recsys.core.backends import Batch, Loss, Tensor

PENALTY = "penalty"


def with_penalties(model: keras.Model, loss: Loss) -> Loss:
    """Return the loss plus all penalties, which it reports as `penalty`; as it is without any."""
    if not model.losses:
        return loss

    def penalised(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        value, figures = loss(batch)
        penalty = sum(model.losses)
        return value + penalty, {**figures, PENALTY: penalty}

    return penalised
