"""The candidate net: P(next watch | history, context) as a softmax over the trained items.

Covington, Adams & Sargin 2016, section 3: bags of watches and search tokens, embedded context and
the example age go through a tower of ReLU layers to a user vector; an item's score is its inner
product with the item's row of a separate output table. All prefixes of a sequence are encoded in
one pass.

A batch is a dict of arrays; what the settings do not use is absent from it:

    history        int32 [B, T]     codes of watched items, oldest first, padded on the right
    positions      int32 [B, P]     length of the prefix that each example knows
    search_tokens  int32 [B, P, S]  codes, 0 for none
    context        int32 [B, P, C]  codes of `settings.context`, in order
    age            float32 [B, P]   years, NaN unknown
    example_age    float32 [B, P]   0 (newest, and serving) to 1 (oldest)
    labels         int32 [B, P]     rows of the items watched next
    weight         float32 [B, P]   0 for padding
    negatives, log_expected_counts  int32, float32 [M], for the sampled softmax
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from recsys.core import losses
from recsys.core.backends import Batch, Tensor, gather_rows, to_numpy
from recsys.core.layers.bag import masked_mean, prefix_window_means
from recsys.core.layers.embedding import Embedding
from recsys.core.layers.numeric import powers, split_missing
from recsys.core.layers.tower import Tower
from recsys.core.random import stream_seed
from recsys.settings import CandidateSettings

CENTURY_YEARS = 100.0


@dataclass(frozen=True)
class CandidateSizes:
    """Sizes of the net's tables.

    Args:
        num_items: N, trained items.
        num_tokens: Codes of the search tokens, 0 included.
        context: Codes of each context column, 0 included, in the order of the settings.
    """

    num_items: int
    num_tokens: int
    context: Mapping[str, int]


class CandidateModel(keras.Model):  # type: ignore[misc]
    """The user tower and the output table.

    Args:
        settings: Which inputs, how wide.
        sizes: Of the tables.
        seed: Of initial values and dropout.
    """

    def __init__(self, settings: CandidateSettings, sizes: CandidateSizes, *, seed: int) -> None:
        super().__init__(name="candidates")
        self.settings, self.sizes, self.seed = settings, sizes, seed
        width = settings.embedding_width
        self.watch_table = self._table("watches", sizes.num_items + 1, width)
        self.token_table = (
            self._table("tokens", sizes.num_tokens, width) if settings.searches else None
        )
        self.context_tables = [
            self._table(f"context_{name}", sizes.context[name], settings.context_width)
            for name in settings.context
        ]
        self.input_dropout = keras.layers.Dropout(
            settings.dropout, seed=stream_seed(seed, "input_dropout")
        )
        self.tower = Tower(settings.tower, settings.dropout, seed=stream_seed(seed, "tower"))
        self.to_user_vector = keras.layers.Dense(
            width,
            kernel_initializer=keras.initializers.GlorotUniform(stream_seed(seed, "user_vector")),
            name="user_vector",
        )
        self._add_output_table()
        self.build()

    def build(self, batch_shape: object = None) -> None:
        """Make the variables of every layer; their shapes depend on the settings alone."""
        for table in (self.watch_table, self.token_table, *self.context_tables):
            if table is not None:
                table.build(None)
        num_inputs = self._num_inputs()
        self.tower.build((None, num_inputs))
        self.to_user_vector.build((None, (num_inputs, *self.settings.tower)[-1]))
        self.built = True

    def call(self, batch: Batch, training: bool = False) -> Tensor:
        """Return the user vector of each prefix: float [B, P, D]; of length 1 for the cosine."""
        inputs = self.input_dropout(self._inputs(batch), training=training)
        shape = ops.shape(inputs)
        flat = ops.reshape(inputs, (-1, inputs.shape[-1]))  # [B * P, inputs]
        vectors = self.to_user_vector(self.tower(flat, training=training))
        if self.settings.similarity == "cosine":
            vectors = ops.normalize(vectors, axis=-1)
        return ops.reshape(vectors, (shape[0], shape[1], vectors.shape[-1]))

    def softmax_loss(self, batch: Batch, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the softmax's cross-entropy, the mean over the weighted examples."""
        vectors = self(batch, training=training)
        vectors = ops.reshape(vectors, (-1, vectors.shape[-1]))  # [R, D], R = B * P
        labels = ops.reshape(batch["labels"], (-1,))
        if self.settings.loss == "full_softmax":
            values = self._full_softmax(vectors, labels)
        else:
            values = self._sampled_softmax(vectors, labels, batch)
        return losses.weighted_mean(values, ops.reshape(batch["weight"], (-1,))), {}

    def item_vectors(self) -> np.ndarray:
        """Return the vectors that user vectors are multiplied with: float32 [N, D'].

        Biases are one more dimension, for which `served_user_vectors` has a 1.
        """
        table = to_numpy(self.output_table.value)
        if self.settings.similarity == "cosine":
            return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        return np.concatenate([table, to_numpy(self.output_bias.value)[:, None]], axis=1)

    def served_user_vectors(self, batch: Batch) -> Tensor:
        """Return user vectors whose inner product with an item vector orders items: [B, P, D']."""
        vectors = self(batch)
        if self.settings.similarity == "cosine":
            return vectors
        return ops.concatenate([vectors, ops.ones_like(vectors[..., :1])], axis=-1)

    def _table(self, name: str, num_codes: int, width: int) -> Embedding:
        return Embedding(num_codes, width, seed=stream_seed(self.seed, name), name=name)

    def _add_output_table(self) -> None:
        count, width = self.sizes.num_items, self.settings.embedding_width
        initial = keras.initializers.RandomNormal(
            stddev=width**-0.5, seed=stream_seed(self.seed, "output")
        )
        self.output_table = self.add_weight(
            shape=(count, width), initializer=initial, name="output_table"
        )
        if self.settings.similarity == "cosine":
            start = keras.initializers.Constant(-float(np.log(self.settings.temperature)))
            self.log_scale = self.add_weight(shape=(), initializer=start, name="log_scale")
        else:
            self.output_bias = self.add_weight(
                shape=(count,), initializer="zeros", name="bias_table"
            )

    def _num_inputs(self) -> int:
        settings = self.settings
        bags = len(settings.windows) + settings.searches
        context = len(settings.context) * settings.context_width
        age_columns, example_age_columns = 4 * settings.age, 3 * settings.example_age
        return bags * settings.embedding_width + context + age_columns + example_age_columns

    def _inputs(self, batch: Batch) -> Tensor:
        settings = self.settings
        watches = self.watch_table(batch["history"])  # [B, T, D]
        parts = [prefix_window_means(watches, batch["positions"], settings.windows)]
        if self.token_table is not None:
            tokens = batch["search_tokens"]
            parts.append(masked_mean(self.token_table(tokens), tokens))
        for column, table in enumerate(self.context_tables):
            parts.append(table(batch["context"][..., column]))
        if settings.age:
            years, is_missing = split_missing(batch["age"][..., None])
            parts += [powers(years / CENTURY_YEARS), is_missing]
        if settings.example_age:
            parts.append(powers(batch["example_age"][..., None]))
        return ops.concatenate(parts, axis=-1)

    def _full_softmax(self, vectors: Tensor, labels: Tensor) -> Tensor:
        rows, bias = self._scaled(self.output_table), self._bias()
        label_logits = ops.sum(vectors * ops.take(rows, labels, axis=0), axis=-1)
        logits = ops.matmul(vectors, ops.transpose(rows))  # [R, N]
        if bias is not None:
            logits, label_logits = logits + bias, label_logits + ops.take(bias, labels)
        return losses.full_softmax(logits, label_logits)

    def _sampled_softmax(self, vectors: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        negatives, bias = batch["negatives"], self._bias()
        label_rows = self._scaled(gather_rows(self.output_table, labels))
        negative_rows = self._scaled(gather_rows(self.output_table, negatives))
        label_logits = ops.sum(vectors * label_rows, axis=-1)
        negative_logits = ops.matmul(vectors, ops.transpose(negative_rows))  # [R, M]
        if bias is not None:
            label_logits = label_logits + gather_rows(bias, labels)
            negative_logits = negative_logits + gather_rows(bias, negatives)
        return losses.sampled_softmax(
            label_logits, negative_logits, labels, negatives, batch["log_expected_counts"]
        )

    def _scaled(self, rows: Tensor) -> Tensor:
        """Return output rows as the logits take them: [..., D]."""
        if self.settings.similarity == "cosine":
            return ops.normalize(rows, axis=-1) * ops.exp(self.log_scale)
        return ops.convert_to_tensor(rows)

    def _bias(self) -> keras.Variable | None:
        return None if self.settings.similarity == "cosine" else self.output_bias
