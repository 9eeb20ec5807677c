"""A conditional neural process: mean and spread of a user's watch time, from few known watches.

With x_i an item, y_i its watch time and w_i whether that was a positive watch, for a context of n
known watches and a target x_t, an item in its request:

    r_i = encoder(x_i, y_i, w_i)
    r   = (r_0 + sum_i r_i) / (1 + n)       r_0 learned
    m, s, z = decoder(r, x_t)
    sigma = 0.1 + 0.9 softplus(s),    y_t ~ N(m, sigma^2),    P(c_t) = sigmoid(z)

in which y = log(1 + seconds) is standardised. The prior r_0 counts as one more watch, where the
paper has a plain mean: an empty context is r_0 alone, and by its share the decoder sees how many
watches there are. The mean of like watches does not tell; without it nothing could be shrunk by n.
The paper has no w and z: what a user completes is not what they watch longest.

A batch has B users with C targets each (C = 1 while training) and T places for watches:

    request              int32 [B, A]        what is known of the request
    target_item          int32 [B, C],       target_categorical [B, C, K], target_bags [B, C, L, M]
    target_numeric       float32 [B, C, G]   as of the request, NaN missing
    context_item, ...    as the targets', [B, T, ...]; of `context_numeric` fewer columns
    context_outcome      float32 [B, T]      log(1 + seconds)
    context_is_watch     float32 [B, T]      1 or 0
    context_known        float32 [B, T]      1 or 0; where 0, all else is of no effect

`recsys.exploration.features` makes them. While training there are the labels of the one target:

    outcome, completed   float32 [B]         as above
    completed_weight     float32 [B]         0 where it is unknown
    weight               float32 [B]         0 for padding

References:
    Garnelo et al. 2018, Conditional Neural Processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from recsys.core import losses
from recsys.core.backends import Batch, Tensor
from recsys.core.layers.numeric import QuantileRamps
from recsys.core.layers.tower import Tower
from recsys.core.random import stream_seed
from recsys.exploration.features import target_numeric, watch_numeric
from recsys.ranking.spec import FeatureSpec
from recsys.ranking.tables import ITEM_TABLE, TableSize, embed_items, new_tables
from recsys.settings.exploration import ExplorationSettings

SMALLEST_DEVIATION = 0.1
"""Of sigma, in units of the deviation of y over all training rows."""
NUM_OUTPUTS = 3
NUM_LABELS = 2


@dataclass(frozen=True)
class Scales:
    """What the training rows say of the sizes of inputs and outcome.

    Args:
        quantiles: float32 [G, n + 1], of each column of `target_numeric`.
        mean, deviation: Of log(1 + watch seconds).
    """

    quantiles: np.ndarray
    mean: float
    deviation: float


class NeuralProcess(keras.Model):  # type: ignore[misc]
    """The net.

    Args:
        settings: Widths and dropout.
        spec: The inputs of the ranking net, of which those of the user's past are left out.
        scales: From the training rows.
        sizes: Of the tables, by id space.
        seed: Of initial values and dropout.
    """

    def __init__(
        self,
        settings: ExplorationSettings,
        spec: FeatureSpec,
        scales: Scales,
        sizes: Mapping[str, TableSize],
        *,
        seed: int,
    ) -> None:
        super().__init__(name="neural_process")
        self.settings, self.spec, self.scales, self.sizes = settings, spec, scales, dict(sizes)
        self.tables = new_tables(sizes, seed=seed)
        self.target_ramps = QuantileRamps(scales.quantiles, with_powers=False, name="target_ramps")
        rows = [target_numeric(spec).index(name) for name in watch_numeric(spec)]
        self.context_ramps = QuantileRamps(
            scales.quantiles[rows], with_powers=False, name="context_ramps"
        )
        self.embedding_dropout = keras.layers.Dropout(
            settings.embedding_dropout, seed=stream_seed(seed, "embedding_dropout")
        )
        # Dropout in the encoder would be noise in every mean.
        self.encoder = Tower(settings.encoder, 0.0, seed=stream_seed(seed, "encoder"))
        self.decoder = Tower(settings.decoder, settings.dropout, seed=stream_seed(seed, "decoder"))
        start = keras.initializers.GlorotUniform(stream_seed(seed, "outputs"))
        self.outputs_dense = keras.layers.Dense(NUM_OUTPUTS, kernel_initializer=start)
        self.build()

    def build(self, batch_shape: object = None) -> None:
        """Make the variables of every layer; their shapes depend on settings and inputs alone."""
        for table in self.tables.values():
            table.build(None)
        of_watch, of_target = self._num_inputs()
        summary = self.settings.encoder[-1]
        self.encoder.build((None, None, of_watch + NUM_LABELS))
        self.prior = self.add_weight(shape=(summary,), initializer="zeros", name="prior")
        self.decoder.build((None, None, summary + of_target))
        self.outputs_dense.build((None, None, self.settings.decoder[-1]))
        self.built = True

    def call(self, batch: Batch, training: bool = False) -> Tensor:
        """Return mean and deviation of log(1 + seconds), and z: float32 [B, C, 3]."""
        summary = self.summary(batch, training=training)[:, None]  # [B, 1, D]
        target = self._targets(batch, training)  # [B, C, width]
        shape = (*ops.shape(target)[:2], summary.shape[-1])
        inputs = ops.concatenate([ops.broadcast_to(summary, shape), target], axis=-1)
        outputs = self.outputs_dense(self.decoder(inputs, training=training))
        mean, spread, completion = ops.split(outputs, NUM_OUTPUTS, axis=-1)
        deviation = SMALLEST_DEVIATION + (1 - SMALLEST_DEVIATION) * ops.softplus(spread)
        unit = self.scales.deviation
        return ops.concatenate(
            [mean * unit + self.scales.mean, deviation * unit, completion], axis=-1
        )

    def summary(self, batch: Batch, training: bool = False) -> Tensor:
        """Return r, all that the decoder sees of the context: float32 [B, D]."""
        outcome = (batch["context_outcome"] - self.scales.mean) / self.scales.deviation
        items = embed_items(self.tables, self.spec, batch, "context")
        watches = ops.concatenate(
            [
                self._embedded(items, training),
                self.context_ramps(batch["context_numeric"]),
                outcome[..., None],
                batch["context_is_watch"][..., None],
            ],
            axis=-1,
        )
        known = batch["context_known"][..., None]  # [B, T, 1]
        total = ops.sum(self.encoder(watches, training=training) * known, axis=1)
        return (self.prior + total) / (1.0 + ops.sum(known, axis=1))

    def loss_of(self, batch: Batch, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of both negative log-likelihoods, and each."""
        of_rows, weight = self.row_losses(batch, training=training), batch["weight"]
        outcome = losses.weighted_mean(of_rows[:, 0], weight)
        completion = losses.weighted_mean(of_rows[:, 1], weight)
        total = outcome + self.settings.completion_weight * completion
        return total, {"outcome_loss": outcome, "completion_loss": completion}

    def row_losses(self, batch: Batch, training: bool = False) -> Tensor:
        """Return the negative log-likelihoods of watch time and completion: float32 [B, 2]."""
        mean, deviation, logit = ops.unstack(self(batch, training=training)[:, 0], axis=-1)
        outcome = losses.gaussian_negative_log_likelihood(mean, deviation, batch["outcome"])
        completion = losses.binary_cross_entropy(logit, batch["completed"])
        return ops.stack([outcome, completion * batch["completed_weight"]], axis=-1)

    def _targets(self, batch: Batch, training: bool) -> Tensor:
        """Return x_t: float32 [B, C, width]."""
        columns = embed_items(self.tables, self.spec, batch, "target")
        shape = ops.shape(batch["target_item"])
        for column, name in enumerate(self.spec.user_categorical):
            row = self.tables[name](batch["request"][:, None, column])
            columns.append(ops.broadcast_to(row, (*shape, row.shape[-1])))
        ramps = self.target_ramps(batch["target_numeric"])
        return ops.concatenate([self._embedded(columns, training), ramps], axis=-1)

    def _embedded(self, columns: list[Tensor], training: bool) -> Tensor:
        return self.embedding_dropout(ops.concatenate(columns, axis=-1), training=training)

    def _num_inputs(self) -> tuple[int, int]:
        """Return the widths of a watch's item and of a target."""
        spec = self.spec
        of_item = (ITEM_TABLE, *spec.item_categorical, *spec.item_bags)
        embedded = sum(self.sizes[name].width for name in of_item)
        request = sum(self.sizes[name].width for name in spec.user_categorical)
        return (
            embedded + 2 * len(watch_numeric(spec)),
            embedded + request + 2 * len(target_numeric(spec)),
        )
