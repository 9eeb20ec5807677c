"""Synthetic gradients (Jaderberg et al. 2017): parts of a net learn before the truth comes back.

Between two modules, or two chunks of a sequence, stands a state h. What the loss makes of h later,
delta = dL / dh, is predicted from h and from the label by a small net M, so that the module before
the cut need not wait for the modules behind it, nor hold what they would need to go back:

    h:  lambda delta + (1 - lambda) M(h, y)     what flows back, BP(lambda)
    M:  d/dM |M - delta|^2 / 2 = M - delta      what M learns by

delta is what arrives from behind, itself mixed at each cut further on: M learns from its own later
predictions, as temporal differences do. lambda = 1 is backpropagation; lambda = 0 with M = 0, which
is where M begins, cuts the gradient off: for chunks of a sequence, truncated backpropagation.

A loss that goes through a cut has to be a sum over examples, not a mean: what M learns is then the
gradient of one example, whatever the size of the batch.

References:
    Jaderberg et al. 2017, Decoupled Neural Interfaces using Synthetic Gradients (section 2.1 of
        recurrent nets; section 3 of conditioning on the label; the supplement of the mix).
    Czarnecki et al. 2017, Understanding Synthetic Gradients and Decoupled Neural Interfaces.
"""

from typing import Any

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.dense import Dense
from recsys.core.random import stream_seed


class GradientPredictor(keras.layers.Layer):  # type: ignore[misc]
    """M(h, y): a hidden layer of ReLU, or none, and a last layer that begins at zero.

    Args:
        hidden: Units of the hidden layer; 0 for none: M is linear then.
        seed: Of initial values.
    """

    def __init__(self, hidden: int, *, seed: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.hidden = None
        if hidden:
            start = keras.initializers.HeUniform(stream_seed(seed, "gradient_predictor"))
            self.hidden = Dense(hidden, start, activation=ops.relu, name="hidden")

    def build(self, states_shape: Any, labels_shape: Any) -> None:
        """Make the weights, for states [B, D] and labels [B, L]."""
        width, inputs = states_shape[-1], states_shape[-1] + labels_shape[-1]
        self.last = Dense(width, keras.initializers.Zeros(), name="last")
        if self.hidden is not None:
            self.hidden.build((None, inputs))
            inputs = self.hidden.units
        self.last.build((None, inputs))

    def call(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return the predicted gradient of each state: float [B, D], [B, L] -> [B, D]."""
        inputs = ops.concatenate([states, labels], axis=-1)
        return self.last(inputs if self.hidden is None else self.hidden(inputs))


def cut(
    states: Tensor, labels: Tensor, predictor: GradientPredictor, *, true_share: float
) -> Tensor:
    """Return the states as they are; cut a net there, and teach the predictor what comes back.

    Args:
        states: float [B, D], what the module before hands to the module behind.
        labels: float [B, L], what is known, while training, of the labels behind the cut.
        predictor: M.
        true_share: lambda, 0 to 1.
    """
    return mixed_gradient(states, _predict(states, labels, predictor), true_share=true_share)


def loss_ahead(states: Tensor, labels: Tensor, predictor: GradientPredictor) -> Tensor:
    """Return a loss in place of all that is behind a cut: its gradient in the states is M.

    For the last state of a chunk whose next chunk is not looked at yet. M learns nothing by it.

    Args:
        states: float [B, D].
        labels: float [B, L].
        predictor: M.

    Returns:
        float [B].
    """
    predicted = ops.stop_gradient(_predict(states, labels, predictor))
    return ops.sum(predicted * states, axis=-1)


def mixed_gradient(states: Tensor, predicted: Tensor, *, true_share: float) -> Tensor:
    """Return the states; give back to them the mix, and to the prediction its error.

    Args:
        states: float [..., D].
        predicted: float [..., D], M; gets M - delta, with which its weights learn to predict.
        true_share: lambda, 0 to 1.
    """

    @ops.custom_gradient  # type: ignore[untyped-decorator]
    def identity(states: Tensor, predicted: Tensor) -> tuple[Tensor, Any]:
        def gradients(delta: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            return true_share * delta + (1.0 - true_share) * predicted, predicted - delta

        return states, gradients

    return identity(states, predicted)


def _predict(states: Tensor, labels: Tensor, predictor: GradientPredictor) -> Tensor:
    # The error of a prediction is M's to mend, not the states'.
    return predictor(ops.stop_gradient(states), labels)
