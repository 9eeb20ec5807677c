"""What a candidate finds in a sequence: attention whose queries are candidates.

Zhou et al. weigh elements by a small net and do not divide by the sum of weights; here they are
scaled dot products of Vaswani et al. with a softmax. The heads are not mixed: a tower follows.

References:
    Zhou et al. 2018, Deep Interest Network for Click-Through Rate Prediction (section 4.3).
    Vaswani et al. 2017, Attention Is All You Need (section 3.2).
"""

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.dense import Dense
from recsys.core.losses import HIDDEN_LOGIT
from recsys.core.random import stream_seed


class TargetAttention(keras.layers.Layer):  # type: ignore[misc]
    """sum_t softmax_t(q . K k_t / sqrt(d)) (W v_t + b), by head, over known elements t.

    Neither keys nor values are projected, since q . K k = K'q . k, and shares that add up to 1
    give W (sum_t p_t v_t) + b. For one candidate a request, as in training, a step takes a third
    of the time; for hundreds, an answer takes half as long again.

    Args:
        width: Of the output, all heads together.
        num_heads: H, divides the width; d = width / H.
        seed: Of initial values.
    """

    def __init__(self, width: int, num_heads: int, *, seed: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.width, self.num_heads, self.seed = width, num_heads, seed
        self.queries = Dense(width, self._start("queries"), name="queries")

    def build(
        self,
        candidates_shape: tuple[int | None, ...],
        keys_shape: tuple[int | None, ...],
        values_shape: tuple[int | None, ...],
    ) -> None:
        """Make the weights for the shapes [Q, C, A], [Q, T, B], [Q, T, V]; only A, B, V matter."""
        self.queries.build(candidates_shape)
        # A bias of keys would add the same to all logits of a query, which a softmax does not see.
        self.key_kernel = self._kernel("key_kernel", keys_shape[-1])
        self.value_kernel = self._kernel("value_kernel", values_shape[-1])
        self.value_bias = self.add_weight(
            shape=(self.width,), initializer="zeros", name="value_bias"
        )

    def call(self, candidates: Tensor, keys: Tensor, values: Tensor, is_known: Tensor) -> Tensor:
        """Return what each candidate finds.

        Args:
            candidates: float [Q, C, A].
            keys: float [Q, T, B], what elements are compared by.
            values: float [Q, T, V], what is found.
            is_known: bool or 0 or 1, [Q, T]. Other elements count for nothing, if they are finite.

        Returns:
            float [Q, C, width]; zeros where no element is known.
        """
        size, heads = ops.shape(candidates)[:2], (self.num_heads, self.width // self.num_heads)
        queries = ops.reshape(self.queries(candidates), (*size, *heads)) * heads[1] ** -0.5
        key_kernel = ops.reshape(self.key_kernel, (-1, *heads))  # [B, H, d]
        value_kernel = ops.reshape(self.value_kernel, (-1, *heads))  # [V, H, d]

        known = ops.cast(is_known, queries.dtype)[:, None, None, :]  # [Q, 1, 1, T]
        turned = ops.einsum("qchd,bhd->qchb", queries, key_kernel)
        logits = ops.einsum("qchb,qtb->qcht", turned, keys)
        logits = ops.where(known > 0, logits, HIDDEN_LOGIT)
        # Keras warns of a softmax over one element, though not of its logarithm. The factor is for
        # sequences without known elements, whose softmax is even.
        shares = ops.exp(ops.log_softmax(logits, axis=-1)) * known
        means = ops.einsum("qcht,qtv->qchv", shares, values)
        found = ops.reshape(ops.einsum("qchv,vhd->qchd", means, value_kernel), (*size, self.width))
        has_known = ops.max(known[:, 0], axis=-1, keepdims=True, initial=0.0)  # [Q, 1, 1]
        return found + self.value_bias * has_known

    def _kernel(self, name: str, num_columns: int | None) -> keras.Variable:
        shape = (num_columns, self.width)
        return self.add_weight(shape=shape, initializer=self._start(name), name=name)

    def _start(self, name: str) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(stream_seed(self.seed, name))
