"""Several interests of a user, by routing: watches gather around the interest that they agree with.

With votes v_t = S r_t of the watches t of a prefix, and logits that start at b_kt = q_k . v_t:

    c_kt = softmax_k(b_kt),   i_k = squash(sum_t c_kt v_t),   b_kt <- b_kt + i_k . v_t,   again

Unlike MIND, logits start from learned queries q, not from chance: an answer is the same each time
it is asked for. And the gradient goes through all rounds, not the last alone.

References:
    Sabour, Frosst & Hinton 2017, Dynamic Routing Between Capsules.
    Li et al. 2019, Multi-Interest Network with Dynamic Routing for Recommendation at Tmall (MIND,
    section 3.2: one S for all pairs).
    Cen et al. 2020, Controllable Multi-Interest Framework for Recommendation (ComiRec).
"""

from typing import Any

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.dense import Dense
from recsys.core.random import stream_seed

TINY = 1e-9
"""Keeps the root of the squashing away from 0, where its slope is infinite."""


class InterestCapsules(keras.layers.Layer):  # type: ignore[misc]
    """The interests of every prefix of a sequence, in one pass over it.

    Args:
        width: D.
        num_interests: K, at least 2.
        num_rounds: Of routing.
        seed: Of initial values.
    """

    def __init__(
        self,
        width: int,
        *,
        num_interests: int,
        num_rounds: int,
        seed: int,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.width, self.num_interests = width, num_interests
        self.num_rounds, self.seed = num_rounds, seed
        start = keras.initializers.GlorotUniform(stream_seed(seed, "votes"))
        self.votes = Dense(width, start, bias=None, name="votes")

    def build(self, rows_shape: Any) -> None:
        """Make S, float32 [D, D], and q, [K, D]."""
        self.votes.build((None, None, self.width))
        self.queries = self.add_weight(
            shape=(self.num_interests, self.width),
            initializer=keras.initializers.RandomNormal(
                stddev=1.0, seed=stream_seed(self.seed, "queries")
            ),
            name="queries",
        )

    def call(self, rows: Tensor, positions: Tensor, training: bool = False) -> Tensor:
        """Return the interests of prefixes; zeros for the empty one.

        Args:
            rows: float [B, T, D], oldest first.
            positions: int [B, P], lengths of the prefixes, 0 to T.
            training: Of the product that makes votes.

        Returns:
            float [B, P, K, D], shorter than 1.
        """
        votes = self.votes(rows, training=training)[:, None]  # [B, 1, T, D]
        turned = ops.transpose(votes, (0, 1, 3, 2))
        time = ops.arange(ops.shape(rows)[1], dtype=positions.dtype)
        is_known = ops.cast(time < positions[:, :, None, None], rows.dtype)  # [B, P, 1, T]
        logits = ops.matmul(ops.convert_to_tensor(self.queries)[None, None], turned)
        for number in range(self.num_rounds):
            shares = ops.softmax(logits, axis=2) * is_known  # [B, P, K, T]
            interests = squash(ops.matmul(shares, votes))  # [B, P, K, D]
            if number < self.num_rounds - 1:
                logits = logits + ops.matmul(interests, turned)
        return interests


def squash(vectors: Tensor) -> Tensor:
    """Return x |x| / (1 + |x|^2): direction kept, length below 1: float [..., D] -> [..., D]."""
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.sqrt(square + TINY) / (1.0 + square)
