"""Towers that tasks share, each task by its own mixture of them.

References:
    Ma et al. 2018, Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts.
    Zhao et al. 2019, Recommending What Video to Watch Next (gates that lose experts in training,
    lest a task settle on one of them).
"""

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.dense import Dense
from recsys.core.layers.tower import RELU, Tower
from recsys.core.losses import HIDDEN_LOGIT
from recsys.core.random import stream_seed
from recsys.settings.layers import LayerSettings


class GatedExperts(keras.layers.Layer):  # type: ignore[misc]
    """f_k(x) = sum_i softmax(W_k x)_i E_i(x) for each task k, with towers E_i.

    Args:
        widths: Of the layers of each expert.
        num_experts: E; one is a tower that all tasks share.
        num_tasks: K.
        dropout: Share of the units of experts zeroed.
        gate_dropout: Share of the experts that an example is not mixed from while training, the
            same for all tasks; the gates' other values are scaled to add up to 1.
        layers: What experts are made of.
        seed: Of initial values and dropout.
        precision: Of the products of experts and gates while training.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        num_experts: int,
        num_tasks: int,
        dropout: float,
        *,
        gate_dropout: float = 0.0,
        layers: LayerSettings = RELU,
        seed: int,
        precision: str = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.num_experts, self.num_tasks = num_experts, num_tasks
        self.experts = [
            Tower(
                widths,
                dropout,
                layers=layers,
                seed=stream_seed(seed, "expert", number),
                precision=precision,
                name=f"expert{number}",
            )
            for number in range(num_experts)
        ]
        start = keras.initializers.GlorotUniform(stream_seed(seed, "gates"))
        units = num_tasks * num_experts
        self.gates = Dense(units, start, bias=None, precision=precision, name="gates")
        self.gate_dropout = keras.layers.Dropout(
            gate_dropout, seed=stream_seed(seed, "gate_dropout")
        )

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Make the experts and the gates for inputs of a shape [..., D]."""
        for expert in self.experts:
            expert.build(inputs_shape)
        self.gates.build(inputs_shape)

    def call(
        self, inputs: Tensor, training: bool = False, is_counted: Tensor | None = None
    ) -> Tensor:
        """Return the mixture of each task: float [..., D] -> [..., K, widths[-1]].

        `is_counted` is as that of a tower.
        """
        shape = (*ops.shape(inputs)[:-1], self.num_tasks, self.num_experts)
        logits = ops.reshape(self.gates(inputs, training=training), shape)
        if training:
            logits = self._hide_experts(logits)
        experts = [
            expert(inputs, training=training, is_counted=is_counted) for expert in self.experts
        ]
        # Keras warns of a softmax over one expert, though not of its logarithm.
        gates = ops.exp(ops.log_softmax(logits, axis=-1))
        return ops.matmul(gates, ops.stack(experts, axis=-2))

    def _hide_experts(self, logits: Tensor) -> Tensor:
        """Leave experts out of the softmax: float [..., K, E] -> [..., K, E]."""
        kept = self.gate_dropout(ops.ones_like(logits[..., :1, :]), training=True)  # [..., 1, E]
        # An example that would lose all of its experts keeps all.
        has_none = ops.equal(ops.max(kept, axis=-1, keepdims=True), 0.0)
        return ops.where(ops.logical_or(kept > 0, has_none), logits, HIDDEN_LOGIT)
