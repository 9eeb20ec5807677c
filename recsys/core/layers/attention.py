"""Causal self-attention over a sequence: gated pre-norm blocks with relative biases.

References:
    Vaswani et al. 2017, Attention Is All You Need (section 3.2).
    Kang & McAuley 2018, Self-Attentive Sequential Recommendation.
    Raffel et al. 2020, Exploring the Limits of Transfer Learning (buckets of distance).
    Zhai et al. 2024, Actions Speak Louder than Words (biases by distance and by time).
    Borisyuk et al. 2024, LiGR (learned gates around each sublayer).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.dense import Dense
from recsys.core.losses import HIDDEN_LOGIT
from recsys.core.random import stream_seed

NUM_EXACT_DISTANCES = 16
NUM_DISTANCE_BUCKETS = 32
LARGEST_DISTANCE = 1024
NUM_TIME_BUCKETS = 32
FIRST_GATE = -1.0
"""Bias of the gates at the start: a block begins as a small correction of its input."""


def distance_buckets() -> np.ndarray:
    """Return the bucket of each distance: exact when near, by logarithm when far: int32."""
    distance = np.arange(LARGEST_DISTANCE + 1)
    share = np.log(np.maximum(distance, 1) / NUM_EXACT_DISTANCES)
    share = share / np.log(LARGEST_DISTANCE / NUM_EXACT_DISTANCES)
    far = NUM_EXACT_DISTANCES + share * (NUM_DISTANCE_BUCKETS - 1 - NUM_EXACT_DISTANCES)
    return np.where(distance < NUM_EXACT_DISTANCES, distance, far).astype(np.int32)


class RelativeBias(keras.layers.Layer):  # type: ignore[misc]
    """Learned additions to the logits of attention, by distance and by the time between.

    Args:
        num_heads: H, of all blocks together.
        with_times: Whether sequences come with times.
    """

    def __init__(self, num_heads: int, *, with_times: bool, name: str | None = None) -> None:
        super().__init__(name=name)
        self.num_heads, self.with_times = num_heads, with_times

    def build(self, sequence_shape: Any) -> None:
        """Make the tables: float32 [buckets, H], zero."""
        shape = (NUM_DISTANCE_BUCKETS, self.num_heads)
        self.by_distance = self.add_weight(shape=shape, initializer="zeros", name="by_distance")
        if self.with_times:
            shape = (NUM_TIME_BUCKETS, self.num_heads)
            self.by_time = self.add_weight(shape=shape, initializer="zeros", name="by_time")

    def call(self, rows: Tensor, seconds: Tensor | None = None) -> Tensor:
        """Return the additions, with what lies ahead hidden.

        Args:
            rows: float [B, T, D], the sequences; only T is looked at.
            seconds: float [B, T], when each element was, from any origin.

        Returns:
            float [B or 1, H, T, T], query by key.
        """
        time = ops.arange(ops.shape(rows)[1], dtype="int32")
        distance = time[:, None] - time[None, :]  # [T, T]
        bucket = ops.take(
            ops.convert_to_tensor(distance_buckets()), ops.clip(distance, 0, LARGEST_DISTANCE)
        )
        bias = ops.take(self.by_distance, bucket, axis=0)[None]  # [1, T, T, H]
        if seconds is not None:
            gap = ops.abs(seconds[:, :, None] - seconds[:, None, :])
            # Bucket 0 is less than a second; each further one is half as long again as the last.
            step = ops.log(1.0 + gap) / np.log(1.9)
            bucket = ops.cast(ops.minimum(step, NUM_TIME_BUCKETS - 1.0), "int32")
            bias = bias + ops.take(self.by_time, bucket, axis=0)
        bias = ops.transpose(bias, (0, 3, 1, 2))
        return ops.where(distance >= 0, bias, HIDDEN_LOGIT)


class GatedBlock(keras.layers.Layer):  # type: ignore[misc]
    """x + g(x) Attention(norm(x)), then x + g(x) SwiGLU(norm(x)); g are learned sigmoids.

    Args:
        width: D.
        num_heads: Divides D.
        dropout: Of both branches.
        seed: Of initial values and dropout.
        precision: Of the dense layers' products while training.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        dropout: float,
        *,
        seed: int,
        precision: str = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.width, self.num_heads = width, num_heads

        def dense(units: int, purpose: str, **kwargs: Any) -> Dense:
            start = keras.initializers.GlorotUniform(stream_seed(seed, purpose))
            return Dense(units, start, precision=precision, name=purpose, **kwargs)

        def gate(purpose: str) -> Dense:
            return dense(width, purpose, activation=ops.sigmoid, bias=FIRST_GATE)

        self.norms = [keras.layers.RMSNormalization(name=f"norm{n}") for n in range(2)]
        self.queries_keys_values = dense(3 * width, "queries_keys_values", bias=None)
        self.mix_heads = dense(width, "mix_heads", bias=None)
        self.widen = dense(4 * width, "widen", bias=None)
        self.narrow = dense(width, "narrow", bias=None)
        self.gates = [gate("attention_gate"), gate("forward_gate")]
        self.dropouts = [
            keras.layers.Dropout(dropout, seed=stream_seed(seed, "dropout", n)) for n in range(2)
        ]

    def build(self, rows_shape: Any) -> None:
        """Make the weights; the length of the sequences is open."""
        for layer in (*self.norms, self.queries_keys_values, self.mix_heads, *self.gates):
            layer.build((None, None, self.width))
        self.widen.build((None, None, self.width))
        self.narrow.build((None, None, 2 * self.width))

    def call(self, rows: Tensor, bias: Tensor, training: bool = False) -> Tensor:
        """Return the sequence one block on: float [B, T, D], [B or 1, H, T, T] -> [B, T, D]."""
        attended = self._attend(self.norms[0](rows), bias, training)
        found = self.dropouts[0](self.mix_heads(attended, training=training), training=training)
        rows = rows + self.gates[0](rows, training=training) * found
        widened = self.widen(self.norms[1](rows), training=training)
        value, switch = ops.split(widened, 2, axis=-1)
        found = self.narrow(ops.silu(switch) * value, training=training)
        found = self.dropouts[1](found, training=training)
        return rows + self.gates[1](rows, training=training) * found

    def _attend(self, rows: Tensor, bias: Tensor, training: bool) -> Tensor:
        shape = ops.shape(rows)
        head_width = self.width // self.num_heads
        heads = (shape[0], shape[1], 3, self.num_heads, head_width)
        projected = self.queries_keys_values(rows, training=training)
        merged = ops.transpose(ops.reshape(projected, heads), (2, 0, 3, 1, 4))  # [3, B, H, T, head]
        queries, keys, values = merged[0], merged[1], merged[2]
        logits = ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))) * head_width**-0.5
        attended = ops.matmul(ops.softmax(logits + bias, axis=-1), values)  # [B, H, T, head]
        return ops.reshape(ops.transpose(attended, (0, 2, 1, 3)), shape)


class CausalAttention(keras.layers.Layer):  # type: ignore[misc]
    """A stack of gated blocks behind a learned first element, which empty prefixes see.

    Args:
        width: D.
        num_blocks: Depth.
        num_heads: Of each block.
        dropout: Of every branch.
        with_times: Whether sequences come with times.
        seed: Of initial values and dropout.
        precision: Of the dense layers' products while training.
    """

    def __init__(
        self,
        width: int,
        *,
        num_blocks: int,
        num_heads: int,
        dropout: float,
        with_times: bool,
        seed: int,
        precision: str = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.width, self.num_heads, self.with_times = width, num_heads, with_times
        self.bias = RelativeBias(num_blocks * num_heads, with_times=with_times)
        self.blocks = [
            GatedBlock(
                width,
                num_heads,
                dropout,
                seed=stream_seed(seed, "block", n),
                precision=precision,
                name=f"block{n}",
            )
            for n in range(num_blocks)
        ]
        self.last_norm = keras.layers.RMSNormalization(name="last_norm")

    def build(self, rows_shape: Any) -> None:
        """Make the weights; the length of the sequences is open."""
        self.first = self.add_weight(shape=(1, 1, self.width), initializer="zeros", name="first")
        for layer in (self.bias, *self.blocks, self.last_norm):
            layer.build((None, None, self.width))

    def call(self, rows: Tensor, seconds: Tensor | None = None, training: bool = False) -> Tensor:
        """Return what is known before and after each element: [B, T, D] -> [B, T + 1, D].

        Args:
            rows: float [B, T, D], oldest first. Padding on the right is never looked at.
            seconds: float [B, T], where there are times.
            training: Whether dropout is on.
        """
        first = ops.broadcast_to(self.first, (ops.shape(rows)[0], 1, self.width))
        # Rows of unit length have elements far below 1, which the branches would drown.
        rows = ops.concatenate([first, rows * self.width**0.5], axis=1)
        if seconds is not None:
            # The time of the oldest element: a later one would tell prefixes of their future.
            seconds = ops.concatenate([seconds[:, :1], seconds], axis=1)
        bias = self.bias(rows, seconds)
        for number, block in enumerate(self.blocks):
            own = slice(number * self.num_heads, (number + 1) * self.num_heads)
            rows = block(rows, bias[:, own], training=training)
        return self.last_norm(rows) * self.width**-0.5
