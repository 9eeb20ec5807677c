"""A conditional neural process: mean and spread of a user's watch time, from few known watches.

With x an item in its request, y its watch time and c whether it was watched to the end, for a
context of n known watches and a target x_t:

    r_i = encoder(x_i, y_i, c_i)
    r   = (r_0 + sum_i r_i) / (1 + n)       r_0 learned
    m, s, z = decoder(r, x_t)
    sigma = 0.1 + 0.9 softplus(s),    y_t ~ N(m, sigma^2),    P(c_t) = sigmoid(z)

in which y = log(1 + seconds) is standardised. The prior r_0 counts as one more watch, where the
paper has a plain mean: an empty context is r_0 alone, and by its share the decoder sees how many
watches there are. The mean of like watches does not tell; without it nothing could be shrunk by n.
The paper has no c and z: what a user completes is not what they watch longest.

A batch has B users with C targets each (C = 1 while training) and T places for watches:

    request              int32 [B, A]        what is known of the request
    target_item          int32 [B, C],       target_categorical [B, C, K], target_bags [B, C, L, M]
    target_numeric       float32 [B, C, G]   NaN missing
    context_item, ...    as the targets', [B, T, ...], and `context_request` int32 [B, T, A]
    context_outcome      float32 [B, T]      log(1 + seconds)
    context_completed    float32 [B, T]      1 or 0
    context_known        float32 [B, T]      1 or 0; where 0, all else is of no effect

and while training the labels of the one target:

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
from recsys.core.layers.bag import masked_mean
from recsys.core.layers.embedding import Embedding
from recsys.core.layers.numeric import QuantileRamps
from recsys.core.layers.tower import Tower
from recsys.core.random import stream_seed
from recsys.exploration.rows import item_numeric
from recsys.ranking.model import INITIAL_DEVIATION, ITEM_TABLE, TableSize
from recsys.ranking.spec import FeatureSpec
from recsys.settings.exploration import ExplorationSettings

SMALLEST_DEVIATION = 0.1
"""Of sigma, in units of the deviation of y over all training rows."""
NUM_OUTPUTS = 3
NUM_LABELS = 2


@dataclass(frozen=True)
class Scales:
    """What the training rows say of the sizes of inputs and outcome.

    Args:
        quantiles: float32 [G, n + 1], of each numeric input.
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
        self.tables = {
            name: Embedding(
                size.num_codes,
                size.width,
                seed=stream_seed(seed, "table", name),
                deviation=INITIAL_DEVIATION,
                name=name,
            )
            for name, size in sizes.items()
        }
        self.ramps = QuantileRamps(scales.quantiles, with_powers=False, name="ramps")
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
        width, summary = self._num_inputs(), self.settings.encoder[-1]
        self.encoder.build((None, None, width + NUM_LABELS))
        self.prior = self.add_weight(shape=(summary,), initializer="zeros", name="prior")
        self.decoder.build((None, None, summary + width))
        self.outputs_dense.build((None, None, self.settings.decoder[-1]))
        self.built = True

    def call(self, batch: Batch, training: bool = False) -> Tensor:
        """Return mean and deviation of log(1 + seconds), and z: float32 [B, C, 3]."""
        summary = self.summary(batch, training=training)[:, None]  # [B, 1, D]
        target = self._inputs(batch, "target", batch["request"][:, None], training)
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
        items = self._inputs(batch, "context", batch["context_request"], training)
        watches = ops.concatenate(
            [items, outcome[..., None], batch["context_completed"][..., None]], axis=-1
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

    def _inputs(self, batch: Batch, prefix: str, request: Tensor, training: bool) -> Tensor:
        """Return x of items [B, S] in requests int32 [B, S or 1, A]: float32 [B, S, width]."""
        codes = batch[f"{prefix}_item"]
        columns = [self.tables[ITEM_TABLE](codes)]
        for column, name in enumerate(self.spec.item_categorical):
            columns.append(self.tables[name](batch[f"{prefix}_categorical"][..., column]))
        for number, name in enumerate(self.spec.item_bags):
            bag = batch[f"{prefix}_bags"][:, :, number]
            columns.append(masked_mean(self.tables[name](bag), bag))
        for column, name in enumerate(self.spec.user_categorical):
            row = self.tables[name](request[..., column])
            columns.append(ops.broadcast_to(row, (*ops.shape(codes), row.shape[-1])))
        embedded = self.embedding_dropout(ops.concatenate(columns, axis=-1), training=training)
        return ops.concatenate([embedded, self.ramps(batch[f"{prefix}_numeric"])], axis=-1)

    def _num_inputs(self) -> int:
        names = (*self.spec.item_categorical, *self.spec.item_bags, *self.spec.user_categorical)
        embedded = sum(self.sizes[name].width for name in (ITEM_TABLE, *names))
        return embedded + 2 * len(item_numeric(self.spec))
