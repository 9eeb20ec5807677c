"""The ranking net: what a user will make of a candidate, in seconds and probabilities.

Covington, Adams & Sargin 2016, section 4: embedded codes (one table an id space), bags averaged,
amounts through their quantiles with powers, a tower of ReLU layers (other kinds by setting). The
first layer is split, relu(W_u u + W_c c), so that what concerns the user (and the context) is
computed once a request, not once a candidate. Beyond 2016, each as far as the settings ask for it:

    attention   each candidate attends to the user's newest events and what came of them
    cross       explicit products of the inputs beside the tower
    experts     several towers, which every head mixes by a gate of its own
    bias        what position or surface do to the log, learned apart, left out when serving

All heads (`recsys.ranking.heads`) stand on this one trunk. With the curve on, the expected seconds
are learned as a factor on the curve's own mean. The inputs are those of `recsys.ranking.features`;
inputs without columns are absent. `recsys.ranking.objective` has the labels and losses.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from recsys.core.backends import Batch, Tensor
from recsys.core.layers.activations import activation_of
from recsys.core.layers.bag import masked_mean
from recsys.core.layers.cross import LowRankCross
from recsys.core.layers.dense import kernel_rules
from recsys.core.layers.experts import GatedExperts
from recsys.core.layers.normalisation import Normaliser
from recsys.core.layers.numeric import QuantileRamps
from recsys.core.layers.shallow import ShallowTower
from recsys.core.layers.target_attention import TargetAttention
from recsys.core.layers.tower import Tower
from recsys.core.random import stream_seed
from recsys.ranking.heads import CURVE, Heads
from recsys.ranking.objective import Objective, in_units, log_mean_of_curve
from recsys.ranking.recent import NUM_AGE_CODES, NUM_OUTCOME_CODES
from recsys.ranking.spec import FeatureSpec
from recsys.ranking.tables import (
    INITIAL_DEVIATION,
    ITEM_TABLE,
    TableSize,
    embed_items,
    new_table,
    new_tables,
)
from recsys.settings import RankingSettings

EVENT_WIDTH = 8
"""Of what came of an event, of how long ago it was, and of its place in the order."""
NUM_ATTENTION_HEADS = 2


@dataclass(frozen=True)
class Scales:
    """What the training rows say of the inputs' sizes.

    Args:
        user_quantiles: float32 [F, n + 1], of each column of `user_numeric`.
        candidate_quantiles: float32 [G, n + 1], of each column of `candidate_numeric`.
    """

    user_quantiles: np.ndarray
    candidate_quantiles: np.ndarray


def quantiles(values: np.ndarray, num_quantiles: int) -> np.ndarray:
    """Return evenly spaced quantiles of each column, missing values aside.

    Args:
        values: float32 [R, F].
        num_quantiles: Intervals, n.

    Returns:
        float32 [F, n + 1]; zeros for a column that is never known.
    """
    out = np.zeros((values.shape[1], num_quantiles + 1), np.float32)
    shares = np.linspace(0, 1, num_quantiles + 1)
    for row, column in zip(out, values.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known):
            row[:] = np.quantile(known, shares)
    return out


class RankingModel(keras.Model):  # type: ignore[misc]
    """The net.

    Args:
        settings: Parts, widths, dropout, weights of the losses.
        spec: The inputs.
        scales: From the training rows.
        heads: What the outputs are.
        sizes: Of the tables, by id space.
        seed: Of initial values and dropout.
    """

    def __init__(
        self,
        settings: RankingSettings,
        spec: FeatureSpec,
        scales: Scales,
        heads: Heads,
        sizes: Mapping[str, TableSize],
        *,
        seed: int,
    ) -> None:
        super().__init__(name="ranking")
        self.settings, self.spec, self.scales, self.seed = settings, spec, scales, seed
        self.sizes, self.heads = dict(sizes), heads
        self.objective = Objective(settings, heads)
        self.tables = new_tables(sizes, seed=seed)
        self.user_ramps = self._ramps(scales.user_quantiles, "user_ramps")
        self.candidate_ramps = self._ramps(scales.candidate_quantiles, "candidate_ramps")
        self.embedding_dropout = self._dropout(settings.embedding_dropout, "embedding_dropout")
        self.numeric_dropout = self._dropout(settings.numeric_dropout, "numeric_dropout")
        if settings.hidden:
            self.user_dense = self._first_layer("user_dense", use_bias=True)
            self.candidate_dense = self._first_layer("candidate_dense", use_bias=False)
        self.first_normaliser = Normaliser(settings.layers.normalisation, name="first_normaliser")
        self.activation = activation_of(settings.layers.activation)
        self.first_dropout = self._dropout(settings.dropout, "first_dropout")
        self._add_attention()
        self._add_trunk()
        self.build()

    def _add_attention(self) -> None:
        self.attention = None
        if self.spec.recent_length:
            codes = {"outcome": NUM_OUTCOME_CODES, "age": NUM_AGE_CODES}
            self.event_tables = {
                name: new_table(number, EVENT_WIDTH, f"event_{name}", seed=self.seed)
                for name, number in codes.items()
            }
            # Looked up by code, a place would cost a step as much as a table of items.
            self.places = self.add_weight(
                shape=(self.spec.recent_length, EVENT_WIDTH),
                initializer=keras.initializers.RandomNormal(
                    stddev=INITIAL_DEVIATION, seed=stream_seed(self.seed, "places")
                ),
                name="places",
            )
            self.attention = TargetAttention(
                self.settings.attention_width,
                NUM_ATTENTION_HEADS,
                seed=stream_seed(self.seed, "attention"),
                name="attention",
            )
            self.attention_dropout = self._dropout(
                self.settings.attention_dropout, "attention_dropout"
            )

    def _add_trunk(self) -> None:
        settings, num_outputs = self.settings, self.heads.num_outputs
        self.tower: Tower | GatedExperts = Tower(
            settings.hidden[1:],
            settings.dropout,
            layers=settings.layers,
            seed=stream_seed(self.seed, "tower"),
        )
        if settings.num_experts > 1:
            self.tower = GatedExperts(
                settings.hidden[1:],
                settings.num_experts,
                len(self.heads.names),
                settings.dropout,
                gate_dropout=settings.gate_dropout,
                layers=settings.layers,
                seed=stream_seed(self.seed, "experts"),
            )
        self.cross = None
        if settings.cross_layers:
            seed = stream_seed(self.seed, "cross")
            self.cross = LowRankCross(settings.cross_layers, settings.cross_rank, seed=seed)
            self.cross_outputs = self._outputs(num_outputs, "cross_outputs", use_bias=False)
        self.head_dropouts = {
            name: self._dropout(head.dropout, f"{name}_dropout")
            for name, head in settings.heads.on().items()
        }
        self.head_outputs = {
            name: self._outputs(width, f"{name}_outputs", use_bias=True)
            for name, width in self.heads.widths().items()
        }
        self.bias = None
        if self.spec.bias_categorical:
            self.bias = ShallowTower(
                tuple(self.spec.bias_categorical.values()),
                num_outputs,
                settings.bias_dropout,
                seed=stream_seed(self.seed, "bias"),
                name="bias",
            )

    def build(self, batch_shape: object = None) -> None:
        """Make the variables of every layer; their shapes depend on settings and inputs alone."""
        for table in self.tables.values():
            table.build(None)
        user_width, candidate_width, item_width = self._num_inputs()
        if self.attention is not None:
            for table in self.event_tables.values():
                table.build(None)
            event = (None, None, item_width + EVENT_WIDTH * (len(self.event_tables) + 1))
            self.attention.build((None, None, candidate_width), event, event)
            candidate_width += self.settings.attention_width
        hidden = self.settings.hidden
        if hidden:
            self.user_dense.build((None, user_width))
            self.candidate_dense.build((None, candidate_width))
            self.first_normaliser.build((None, None, hidden[0]))
        first_width = hidden[0] if hidden else user_width + candidate_width
        self.tower.build((None, None, first_width))
        if self.cross is not None:
            self.cross.build((None, user_width + candidate_width))
            self.cross_outputs.build((None, user_width + candidate_width))
        for dense in self.head_outputs.values():
            dense.build((None, hidden[-1] if hidden else first_width))
        if self.bias is not None:
            self.bias.build(None)
        self.built = True

    def call(self, batch: Batch, training: bool = False) -> Tensor:
        """Return the heads' raw outputs (see `recsys.ranking.heads`): float32 [Q, C, K].

        What the bias columns do is in them if the batch has these columns.
        """
        user = self._user_inputs(batch, training)  # [Q, D_u]
        candidate = self._candidate_inputs(batch, training)  # [Q, C, D_c]
        if self.attention is not None:
            found = self.attention(candidate, *self._events(batch, training))
            found = self.attention_dropout(found, training=training)
            candidate = ops.concatenate([candidate, found], axis=-1)
        is_counted = batch["weight"][:, None] > 0 if "weight" in batch else None  # [Q, C]
        first = self._first(user, candidate, training, is_counted)  # [Q, C, hidden]
        trunk = self.tower(first, training=training, is_counted=is_counted)
        raw = self._head_outputs(trunk, training)
        if self.cross is not None:
            raw = raw + self.cross_outputs(self.cross(_beside(user, candidate), training=training))
        if self.bias is not None and "bias_categorical" in batch:
            bias = self.bias(batch["bias_categorical"], training=training)
            raw = raw + ops.expand_dims(bias, 1)
        return self._with_mean_of_curve(raw)

    def loss_of(self, batch: Batch, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the heads' losses and its parts."""
        return self.objective(self(batch, training=training)[:, 0], batch)

    def _first(
        self, user: Tensor, candidate: Tensor, training: bool, is_counted: Tensor | None
    ) -> Tensor:
        if not self.settings.hidden:
            return _beside(user, candidate)
        first = ops.expand_dims(self.user_dense(user), 1) + self.candidate_dense(candidate)
        first = self.first_normaliser(first, training=training, is_counted=is_counted)
        return self.first_dropout(self.activation(first), training=training)

    def _head_outputs(self, trunk: Tensor, training: bool) -> Tensor:
        """Return the heads' outputs side by side: [Q, C, width], or [Q, C, H, width] if mixed."""
        columns = []
        for number, (name, outputs) in enumerate(self.head_outputs.items()):
            own = trunk if self.settings.num_experts == 1 else trunk[:, :, number]
            columns.append(outputs(self.head_dropouts[name](own, training=training)))
        return ops.concatenate(columns, axis=-1)

    def _with_mean_of_curve(self, raw: Tensor) -> Tensor:
        """Make the first output, a correction so far, the logarithm of the mean."""
        columns = self.heads.columns()
        if CURVE not in columns:
            return raw
        log_mean = log_mean_of_curve(raw[..., columns[CURVE]], in_units(self.heads))
        expected = raw[..., :1] + ops.expand_dims(log_mean, -1)
        return ops.concatenate([expected, raw[..., 1:]], axis=-1)

    def _user_inputs(self, batch: Batch, training: bool) -> Tensor:
        codes = batch["user_categorical"]
        embedded = [
            self.tables[name](codes[:, column])
            for column, name in enumerate(self.spec.user_categorical)
        ]
        if ITEM_TABLE in self.tables:
            history = batch["history"]
            embedded.append(masked_mean(self.tables[ITEM_TABLE](history), history))
        embedded_inputs = self._embedded(embedded, training)
        ramps = self.numeric_dropout(self.user_ramps(batch["user_numeric"]), training=training)
        return ops.concatenate([embedded_inputs, ramps], axis=-1)

    def _candidate_inputs(self, batch: Batch, training: bool) -> Tensor:
        ramps = self.candidate_ramps(batch["candidate_numeric"])
        ramps = self.numeric_dropout(ramps, training=training)
        items = embed_items(self.tables, self.spec, batch, "candidate")
        if not items:
            return ramps
        return ops.concatenate([self._embedded(items, training), ramps], axis=-1)

    def _events(self, batch: Batch, training: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the newest events as keys and values of the attention, and which there are."""
        is_event = ops.not_equal(batch["recent_age"], 0)
        embedded = embed_items(self.tables, self.spec, batch, "recent")
        embedded.append(self.event_tables["outcome"](batch["recent_outcome"]))
        embedded.append(self.event_tables["age"](batch["recent_age"]))
        embedded.append(ops.cast(is_event, self.places.dtype)[..., None] * self.places)
        events = self._embedded(embedded, training)
        return events, events, is_event

    def _embedded(self, columns: list[Tensor], training: bool) -> Tensor:
        return self.embedding_dropout(ops.concatenate(columns, axis=-1), training=training)

    def _num_inputs(self) -> tuple[int, int, int]:
        """Return the widths of the user's inputs, of the candidate's, and of an embedded item."""
        width = {name: table.width for name, table in self.tables.items()}
        per_number = 4 if self.settings.powers else 1 + self.settings.num_pieces
        of_item = width.get(ITEM_TABLE, 0)
        user = of_item + sum(width[name] for name in self.spec.user_categorical)
        columns = (*self.spec.item_categorical, *self.spec.item_bags)
        item = of_item + sum(width[name] for name in columns)
        return (
            user + per_number * len(self.spec.user_numeric),
            item + per_number * len(self.spec.item_numeric),
            item,
        )

    def _ramps(self, values: np.ndarray, name: str) -> QuantileRamps:
        return QuantileRamps(
            values,
            with_powers=self.settings.powers,
            num_pieces=self.settings.num_pieces,
            name=name,
        )

    def _dropout(self, rate: float, name: str) -> keras.layers.Dropout:
        return keras.layers.Dropout(rate, seed=stream_seed(self.seed, name), name=name)

    def _first_layer(self, name: str, *, use_bias: bool) -> keras.layers.Dense:
        initial = keras.initializers.HeUniform(stream_seed(self.seed, name))
        rules = kernel_rules(self.settings.layers)
        return keras.layers.Dense(
            self.settings.hidden[0],
            use_bias=use_bias,
            kernel_initializer=initial,
            kernel_regularizer=rules["regularizer"],
            kernel_constraint=rules["constraint"],
            name=name,
        )

    def _outputs(self, units: int, name: str, *, use_bias: bool) -> keras.layers.Dense:
        initial = keras.initializers.GlorotUniform(stream_seed(self.seed, name))
        return keras.layers.Dense(units, use_bias=use_bias, kernel_initializer=initial, name=name)


def outputs_and_losses(net: keras.Model, batch: Batch) -> Tensor:
    """Return raw outputs and losses of each row of a training batch: float32 [B, K + H].

    As served: without what the bias columns do.

    Args:
        net: A `RankingModel`, or an ensemble of some.
        batch: With the labels.
    """
    served = {name: values for name, values in batch.items() if name != "bias_categorical"}
    raw = net(served)[:, 0]
    return ops.concatenate([raw, net.objective.row_losses(raw, batch)], axis=-1)


def _beside(user: Tensor, candidate: Tensor) -> Tensor:
    """Put the user's inputs beside each candidate's: [Q, D_u], [Q, C, D_c] -> [Q, C, D_u + D_c]."""
    shape = (*ops.shape(candidate)[:2], user.shape[-1])
    return ops.concatenate([ops.broadcast_to(user[:, None], shape), candidate], axis=-1)
