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
    query_time     float32 [B, P, 4]  place in the day and the week
    minutes_since_watch  float32 [B, P]  NaN without a watch
    watch_seconds  float32 [B, T]   when each watch was, 0 the last
    labels         int32 [B, P]     rows of the items watched next
    weight         float32 [B, P]   0 for padding
    minutes_since_forecast  float32 [B, P]  served alone: how old the bundle's forecast is
    reward, log_propensity  float32 [B, P]  of the labels, with `policy_gradient`; NaN unknown
    negatives, log_expected_counts  int32, float32 [M], for the sampled softmax
    label_log_expected_counts  float32 [B, P], where the labels are corrected too
    negative_is_hidden   bool [R, M]         watched by the user before, with `seen_hidden`
    label_popularity     float32 [B, P, K]   counts of the last hours, in columns
    negative_popularity  float32 [G, M, K]   the same at G moments
    popularity_step      int32 [B, P]        which of the G is an example's
    label_successions    float32 [B, P, W]   counts among what followed the last watch
    negative_successions float32 [W, R, M]   the same
"""

from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import ops

from recsys.candidates.crowd_logits import crowd_logits
from recsys.candidates.encoder import HistoryEncoder
from recsys.candidates.interests import by_interest, nearest_interest
from recsys.candidates.item_table import ItemTable
from recsys.candidates.policy import BehaviourHead, policy_loss, surprise
from recsys.candidates.side_inputs import embedded_side_inputs, num_side_inputs
from recsys.candidates.sizes import CandidateSizes
from recsys.core import losses
from recsys.core.backends import Batch, Tensor, gather_rows, to_numpy
from recsys.core.layers.embedding import Embedding
from recsys.core.layers.skip import WeightedParts
from recsys.core.layers.tower import Tower
from recsys.core.random import stream_seed
from recsys.core.softmax import CHUNK_LOGITS, MAX_CHUNKS, chunked_partition, sampled_softmax
from recsys.settings import FORECAST_STARTS, CandidateSettings

FIRST_POPULARITY_WEIGHT = 0.3
FIRST_OUTPUT_SCALE = 0.1
FIRST_SUCCESSOR_WEIGHT = 0.5


@dataclass(frozen=True)
class UserSide:
    """What the net makes of R users. With several interests there are none of the weights.

    Args:
        vectors: float [R * K, D], of length 1 for the cosine; K interests, one after another.
        popularity_weights: float [R, K], of the recent popularity; None without any.
        successor_weights: float [R, W], of what followed the last watch; None without any.
        hidden: float [R, H], what the vectors are made of.
    """

    vectors: Tensor
    popularity_weights: Tensor | None
    successor_weights: Tensor | None
    hidden: Tensor


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
        self.watch_table = self._item_table("watches")
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
        self.encoder = HistoryEncoder(settings, seed=stream_seed(seed, "encoder"), name="encoder")
        self.tower = Tower(
            settings.tower,
            settings.dropout,
            layers=settings.layers,
            seed=stream_seed(seed, "tower"),
            precision=settings.precision,
        )
        self.to_user_vector = keras.layers.Dense(
            width,
            kernel_initializer=keras.initializers.GlorotUniform(stream_seed(seed, "user_vector")),
            name="user_vector",
        )
        self.skip = WeightedParts(self.encoder.num_outputs // width, name="skip")
        # Without the cosine, rows that were not learned yet shall say next to nothing.
        scale = 1.0 if settings.similarity == "cosine" else FIRST_OUTPUT_SCALE
        self.output_table = (
            self.watch_table if settings.shared_table else self._item_table("output", scale)
        )
        # The weights of the recent popularity, personal as the vector is.
        self.to_popularity_weights = keras.layers.Dense(
            max(1, settings.num_popularity_columns),
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(FIRST_POPULARITY_WEIGHT),
            name="popularity_weights",
        )
        self.to_successor_weights = keras.layers.Dense(
            max(1, settings.num_successor_columns),
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(FIRST_SUCCESSOR_WEIGHT),
            name="successor_weights",
        )
        self.behaviour = (
            BehaviourHead(settings.policy_gradient, sizes.num_items, width, seed=seed)
            if settings.policy_gradient
            else None
        )
        self._add_scale_or_bias()
        self.build()

    def build(self, batch_shape: object = None) -> None:
        """Make the variables of every layer; their shapes depend on the settings alone."""
        tables = (self.watch_table, self.output_table, self.token_table, *self.context_tables)
        for table in tables:
            if table is not None and not table.built:
                table.build(None)
        self.encoder.build((None, None, self.settings.embedding_width))
        num_inputs = self._num_inputs()
        self.tower.build((None, num_inputs))
        if self.settings.skip:
            self.skip.build((None, self.encoder.num_outputs))
        last_width = (num_inputs, *self.settings.tower)[-1]
        self.to_user_vector.build((None, last_width))
        if self.settings.popularity_minutes:
            self.to_popularity_weights.build((None, last_width))
        if self.settings.successor_windows:
            self.to_successor_weights.build((None, last_width))
        if self.behaviour is not None:
            self.behaviour.build((None, last_width))
        self.built = True

    def call(self, batch: Batch, training: bool = False) -> UserSide:
        """Encode every prefix: R = B * P users, K interests each."""
        inputs = self.input_dropout(self._inputs(batch, training), training=training)
        flat = ops.reshape(inputs, (-1, inputs.shape[-1]))  # [R, inputs]
        hidden = self.tower(flat, training=training, is_counted=self._is_counted(batch))
        vectors = self.to_user_vector(hidden)
        if self.settings.skip:
            vectors = vectors + self.skip(flat[:, : self.encoder.num_outputs])
        if self.settings.similarity == "cosine":
            vectors = ops.normalize(vectors, axis=-1)
        return UserSide(
            vectors,
            self.to_popularity_weights(hidden) if self.settings.popularity_minutes else None,
            self.to_successor_weights(hidden) if self.settings.successor_windows else None,
            hidden,
        )

    def softmax_loss(self, batch: Batch, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the softmax's cross-entropy, the mean over the weighted examples; or the
        policy gradient's loss in its place."""
        users = self(batch, training=training)
        labels = ops.reshape(batch["labels"], (-1,))
        weights = ops.reshape(batch["weight"], (-1,))
        if self.settings.interests > 1:
            rows = self._scaled(self.output_table(labels + 1))
            nearest = nearest_interest(users.vectors, rows, self.settings.interests)
            users = replace(users, vectors=nearest)
        is_full = self.settings.loss == "full_softmax"
        if is_full and self.behaviour is None:
            return self._full_softmax(users.vectors, labels, weights, training), {}
        if is_full:
            values = surprise(self._all_logits(users.vectors, training), labels)
        else:
            values = self._sampled_softmax(users, labels, batch, training)
        if self.behaviour is not None:
            return policy_loss(values, users.hidden, batch, self.behaviour)
        return losses.weighted_mean(values, weights), {}

    def _is_counted(self, batch: Batch) -> Tensor | None:
        """Tell which rows are no padding: bool [R * K]; None where all count."""
        if "weight" not in batch:
            return None
        weight = by_interest(batch["weight"][..., None], self.settings.interests)
        return ops.reshape(weight, (-1,)) > 0

    @property
    def served_width(self) -> int:
        """D', width of the served vectors."""
        settings = self.settings
        has_bias = settings.similarity == "inner_product"
        crowd = settings.num_successor_columns + settings.num_served_popularity_columns
        return settings.embedding_width + has_bias + crowd

    def item_vectors(self) -> np.ndarray:
        """Return the vectors that user vectors are multiplied with: float32 [n, D' - K].

        Of all trained items, and where items share features, of the whole catalogue. A bias is
        one more dimension, for which `served_user_vectors` has a 1; in the dimensions of the
        successors' weights an item has zeros. K columns of the recent popularity are to be
        put behind, for which a user has the weights.
        """
        settings, rows = self.settings, self.output_table.served_rows()
        if settings.similarity == "cosine":
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            if settings.popularity_minutes or settings.successor_windows:
                # Beside these, how much the cosine counts is no longer all the same.
                rows = rows * np.exp(to_numpy(self.log_scale.value))
        parts = [rows]
        if settings.similarity == "inner_product":
            bias = np.zeros((len(rows), 1), np.float32)
            bias[: self.sizes.num_items, 0] = to_numpy(self.output_bias.value)
            parts.append(bias)
        parts.append(np.zeros((len(rows), settings.num_successor_columns), np.float32))
        return np.concatenate(parts, axis=1)

    def served_user_vectors(self, batch: Batch) -> Tensor:
        """Return user vectors whose inner product with an item vector orders items: [B, P * K, D'].

        Of K interests, the largest of the inner products does.

        Behind what is multiplied with the item's row stand the weights of the successors, which
        whoever scores the successors reads there, and those of the recent popularity.
        """
        users, settings = self(batch), self.settings
        parts = [users.vectors]
        if settings.similarity == "inner_product":
            parts.append(ops.ones_like(users.vectors[:, :1]))
        if settings.vector_scale != 1:
            parts = [settings.vector_scale * part for part in parts]
        if users.successor_weights is not None:
            parts.append(settings.successor_scale * users.successor_weights)
        if users.popularity_weights is not None:
            parts.append(self._served_popularity_weights(users.popularity_weights, batch))
        served = ops.concatenate(parts, axis=-1)
        shape = ops.shape(batch["positions"])
        count = shape[1] * settings.interests
        return ops.reshape(served, (shape[0], count, served.shape[-1]))

    def _served_popularity_weights(self, weights: Tensor, batch: Batch) -> Tensor:
        """Return the weights of the columns that are served: [R, columns].

        Of a forecast, 1 for the part of the horizon that the request lies in, the last one for
        what is later, and 0 for the others.
        """
        if self.settings.forecast_minutes:
            age = ops.reshape(batch["minutes_since_forecast"], (-1, 1))
            starts = np.array(FORECAST_STARTS, np.float32) * self.settings.forecast_minutes
            has_begun = ops.cast(age >= starts, "float32")  # [R, parts]
            is_over = ops.concatenate([has_begun[:, 1:], ops.zeros_like(has_begun[:, :1])], axis=1)
            return has_begun - is_over
        shift = np.zeros(self.settings.num_popularity_columns, np.float32)
        shift[: len(self.settings.popularity_shift)] = self.settings.popularity_shift
        return weights + shift

    def _item_table(self, name: str, scale: float = 1.0) -> ItemTable:
        settings, sizes = self.settings, self.sizes
        return ItemTable(
            sizes.num_items,
            settings.embedding_width,
            features=sizes.item_features,
            num_features=settings.item_feature_buckets + 1,
            own_dropout=settings.own_dropout,
            deviation=scale * settings.embedding_width**-0.5,
            seed=stream_seed(self.seed, name),
            name=name,
        )

    def _table(self, name: str, num_codes: int, width: int) -> Embedding:
        return Embedding(num_codes, width, seed=stream_seed(self.seed, name), name=name)

    def _add_scale_or_bias(self) -> None:
        if self.settings.similarity == "cosine":
            start = keras.initializers.Constant(-float(np.log(self.settings.temperature)))
            self.log_scale = self.add_weight(shape=(), initializer=start, name="log_scale")
        else:
            self.output_bias = self.add_weight(
                shape=(self.sizes.num_items,), initializer="zeros", name="bias_table"
            )

    def _num_inputs(self) -> int:
        return self.encoder.num_outputs + num_side_inputs(self.settings)

    def _inputs(self, batch: Batch, training: bool) -> Tensor:
        """Return all that the tower is told of each interest: [B, P * K, inputs]."""
        watches = self.watch_table(batch["history"], training=training)  # [B, T, D]
        encoded = self.encoder(
            watches, batch["positions"], batch.get("watch_seconds"), training=training
        )
        parts = list(
            embedded_side_inputs(batch, self.settings, self.token_table, self.context_tables)
        )
        if not parts:
            return encoded
        side = ops.concatenate(parts, axis=-1)
        return ops.concatenate([encoded, by_interest(side, self.settings.interests)], axis=-1)

    def _all_logits(self, vectors: Tensor, training: bool) -> Tensor:
        """Return the scores of all trained items: [R, D] -> [R, N]."""
        rows = self._scaled(self.output_table.all_rows(training=training))
        logits = ops.matmul(vectors, ops.transpose(rows))
        if self.settings.similarity == "inner_product":
            logits = logits + ops.convert_to_tensor(self.output_bias)
        return logits

    def _full_softmax(
        self, vectors: Tensor, labels: Tensor, weights: Tensor, training: bool
    ) -> Tensor:
        rows = self._scaled(self.output_table.all_rows(training=training))  # [N, D]
        label_logits = ops.sum(vectors * ops.take(rows, labels, axis=0), axis=-1)
        if self.settings.similarity == "inner_product":
            bias = ops.convert_to_tensor(self.output_bias)
            label_logits = label_logits + gather_rows(self.output_bias, labels)
            vectors = ops.concatenate([vectors, ops.ones_like(vectors[:, :1])], axis=1)
            rows = ops.concatenate([rows, bias[:, None]], axis=1)
        partition = chunked_partition(
            vectors,
            rows,
            weights,
            num_chunks=self._num_chunks(),
            precision=self.settings.precision,
        )
        total = partition - ops.sum(weights * label_logits)
        return total / ops.maximum(ops.sum(weights), 1e-12)

    def _num_chunks(self) -> int:
        settings = self.settings
        num_rows = settings.training.batch_size * settings.max_positions_per_user
        return min(MAX_CHUNKS, max(1, num_rows * self.sizes.num_items // CHUNK_LOGITS))

    def _sampled_softmax(
        self, users: UserSide, labels: Tensor, batch: Batch, training: bool
    ) -> Tensor:
        negatives = batch["negatives"]
        label_rows = self._scaled(self.output_table(labels + 1, training=training))
        negative_rows = self._scaled(self.output_table(negatives + 1, training=training))
        label_logits = ops.sum(users.vectors * label_rows, axis=-1)
        negative_logits = ops.matmul(users.vectors, ops.transpose(negative_rows))  # [R, M]
        if self.settings.similarity == "inner_product":
            label_logits = label_logits + gather_rows(self.output_bias, labels)
            negative_logits = negative_logits + gather_rows(self.output_bias, negatives)
        for of_label, of_negatives in crowd_logits(
            users.popularity_weights, users.successor_weights, batch
        ):
            label_logits, negative_logits = label_logits + of_label, negative_logits + of_negatives
        own = batch.get("label_log_expected_counts")
        return sampled_softmax(
            label_logits,
            negative_logits,
            labels,
            negatives,
            batch["log_expected_counts"],
            label_log_expected_counts=None if own is None else ops.reshape(own, (-1,)),
            is_hidden=batch.get("negative_is_hidden"),
        )

    def _scaled(self, rows: Tensor) -> Tensor:
        """Return output rows as the logits take them: [..., D]."""
        if self.settings.similarity == "cosine":
            return ops.normalize(rows, axis=-1) * ops.exp(self.log_scale)
        return rows
