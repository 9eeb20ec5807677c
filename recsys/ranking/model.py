"""The ranking net: expected watch time, median watch time and completion of a candidate.

Covington, Adams & Sargin 2016, section 4: embedded codes (one table an id space), bags averaged,
amounts through their quantiles with powers, a tower of ReLU layers. Three heads stand on the one
trunk. The first layer is split, relu(W_u u + W_c c), so that what concerns the user (and the
context) is computed once a request, not once a candidate.

The inputs are those of `recsys.ranking.features`; inputs without columns are absent. Training adds

    watch_time        float32 [B]  watch seconds in units of `Scales.mean_watch_seconds`
    completed         float32 [B]  1 or 0
    completed_weight  float32 [B]  0 where it is unknown
    user              int32 [B]    rows of one user are neighbours
    weight            float32 [B]  0 for padding
"""

import math
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
from recsys.ranking.heads import LARGEST_LOGIT
from recsys.ranking.spec import FeatureSpec
from recsys.settings import RankingSettings

HEADS = ("expected", "median", "completion")
ITEM_TABLE = "item_id"
INITIAL_DEVIATION = 0.05
"""Of table rows. A row that few impressions trained must not speak as loudly as the counters."""


@dataclass(frozen=True)
class Scales:
    """What the training rows say of the inputs' and the labels' sizes.

    Args:
        user_quantiles: float32 [F, n + 1], of each column of `user_numeric`.
        candidate_quantiles: float32 [G, n + 1], of each column of `candidate_numeric`.
        mean_watch_seconds: The unit of the net's watch times.
    """

    user_quantiles: np.ndarray
    candidate_quantiles: np.ndarray
    mean_watch_seconds: float


@dataclass(frozen=True)
class TableSize:
    """Rows and columns of one embedding table."""

    num_codes: int
    width: int


def table_sizes(settings: RankingSettings, spec: FeatureSpec) -> dict[str, TableSize]:
    """Return the table of each id space; its width grows with the logarithm of its rows."""
    spaces = spec.user_categorical | spec.item_categorical | spec.item_bags
    sizes = {}
    for name, num_codes in (spaces | {ITEM_TABLE: spec.num_item_codes}).items():
        wished = round(settings.embedding_scale * math.log2(num_codes))
        sizes[name] = TableSize(num_codes, min(settings.max_embedding_width, max(4, wished)))
    return sizes


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
        settings: Widths, dropout, weights of the losses.
        spec: The inputs.
        scales: From the training rows.
        sizes: Of the tables, by id space.
        seed: Of initial values and dropout.
    """

    def __init__(
        self,
        settings: RankingSettings,
        spec: FeatureSpec,
        scales: Scales,
        sizes: Mapping[str, TableSize],
        *,
        seed: int,
    ) -> None:
        super().__init__(name="ranking")
        self.settings, self.spec, self.scales, self.seed = settings, spec, scales, seed
        self.sizes = dict(sizes)
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
        self.user_ramps = self._ramps(scales.user_quantiles, "user_ramps")
        self.candidate_ramps = self._ramps(scales.candidate_quantiles, "candidate_ramps")
        self.user_dense = self._first_layer("user_dense", use_bias=True)
        self.candidate_dense = self._first_layer("candidate_dense", use_bias=False)
        self.embedding_dropout = self._dropout(settings.embedding_dropout, "embedding_dropout")
        self.first_dropout = self._dropout(settings.dropout, "first_dropout")
        self.tower = Tower(
            settings.hidden[1:], settings.dropout, seed=stream_seed(seed, "tower"), name="tower"
        )
        initial = keras.initializers.GlorotUniform(stream_seed(seed, "heads"))
        self.heads = keras.layers.Dense(3, kernel_initializer=initial, name="heads")
        self.build()

    def build(self, batch_shape: object = None) -> None:
        """Make the variables of every layer; their shapes depend on settings and inputs alone."""
        for table in self.tables.values():
            table.build(None)
        user_width, candidate_width = self._num_inputs()
        self.user_dense.build((None, user_width))
        self.candidate_dense.build((None, candidate_width))
        self.tower.build((None, self.settings.hidden[0]))
        self.heads.build((None, self.settings.hidden[-1]))
        self.built = True

    def call(self, batch: Batch, training: bool = False) -> Tensor:
        """Return the heads' raw outputs (see `recsys.ranking.heads`): float32 [B, C, 3]."""
        user = self.user_dense(self._user_inputs(batch, training))  # [B, hidden]
        candidate = self.candidate_dense(self._candidate_inputs(batch, training))
        first = ops.relu(ops.expand_dims(user, 1) + candidate)  # [B, C, hidden]
        first = self.first_dropout(first, training=training)
        return self.heads(self.tower(first, training=training))

    def loss_of(self, batch: Batch, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the heads' losses, each the mean over the weighted rows."""
        raw = self(batch, training=training)[:, 0]  # [B, 3]
        row_losses, weight = _row_losses(raw, batch), batch["weight"]
        figures = {
            f"{name}_loss": losses.weighted_mean(row_losses[:, head], weight)
            for head, name in enumerate(HEADS)
        }
        total = sum(figures.values())
        if self.settings.pairwise_weight:
            figures["pairwise_loss"] = _pairwise_loss(raw[:, 2], batch)
            total = total + self.settings.pairwise_weight * figures["pairwise_loss"]
        return total, figures

    def outputs_and_losses(self, batch: Batch) -> Tensor:
        """Return raw outputs and losses of each row of a training batch: float32 [B, 6]."""
        raw = self(batch)[:, 0]
        return ops.concatenate([raw, _row_losses(raw, batch)], axis=-1)

    def _user_inputs(self, batch: Batch, training: bool) -> Tensor:
        codes = batch["user_categorical"]
        embedded = [
            self.tables[name](codes[:, column])
            for column, name in enumerate(self.spec.user_categorical)
        ]
        history = batch["history"]
        embedded.append(masked_mean(self.tables[ITEM_TABLE](history), history))
        embedded_inputs = self._embedded(embedded, training)
        return ops.concatenate([embedded_inputs, self.user_ramps(batch["user_numeric"])], axis=-1)

    def _candidate_inputs(self, batch: Batch, training: bool) -> Tensor:
        embedded = [self.tables[ITEM_TABLE](batch["candidate_item"])]
        for column, name in enumerate(self.spec.item_categorical):
            embedded.append(self.tables[name](batch["candidate_categorical"][..., column]))
        for number, name in enumerate(self.spec.item_bags):
            codes = batch["candidate_bags"][:, :, number]
            embedded.append(masked_mean(self.tables[name](codes), codes))
        embedded_inputs = self._embedded(embedded, training)
        ramps = self.candidate_ramps(batch["candidate_numeric"])
        return ops.concatenate([embedded_inputs, ramps], axis=-1)

    def _embedded(self, columns: list[Tensor], training: bool) -> Tensor:
        return self.embedding_dropout(ops.concatenate(columns, axis=-1), training=training)

    def _num_inputs(self) -> tuple[int, int]:
        """Return the widths of the user's and the candidate's inputs."""
        width = {name: table.width for name, table in self.tables.items()}
        per_number = 4 if self.settings.powers else 2
        user = sum(width[name] for name in self.spec.user_categorical)
        item = sum(width[name] for name in (*self.spec.item_categorical, *self.spec.item_bags))
        return (
            user + width[ITEM_TABLE] + per_number * len(self.spec.user_numeric),
            item + width[ITEM_TABLE] + per_number * len(self.spec.item_numeric),
        )

    def _ramps(self, values: np.ndarray, name: str) -> QuantileRamps:
        return QuantileRamps(values, with_powers=self.settings.powers, name=name)

    def _dropout(self, rate: float, name: str) -> keras.layers.Dropout:
        return keras.layers.Dropout(rate, seed=stream_seed(self.seed, name), name=name)

    def _first_layer(self, name: str, *, use_bias: bool) -> keras.layers.Dense:
        initial = keras.initializers.HeUniform(stream_seed(self.seed, name))
        return keras.layers.Dense(
            self.settings.hidden[0], use_bias=use_bias, kernel_initializer=initial, name=name
        )


def _row_losses(raw: Tensor, batch: Batch) -> Tensor:
    """Return the loss of each head: float32 [B, 3]; 0 for a completion that is unknown."""
    logits = ops.clip(raw[:, 0], -LARGEST_LOGIT, LARGEST_LOGIT)
    expected = losses.expected_watch_time(logits, batch["watch_time"])
    median = losses.absolute_error(ops.softplus(raw[:, 1]), batch["watch_time"])
    completion = losses.binary_cross_entropy(raw[:, 2], batch["completed"])
    return ops.stack([expected, median, completion * batch["completed_weight"]], axis=-1)


def _pairwise_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return softplus(z_negative - z_positive) over neighbouring rows of one user.

    Rendle et al. 2009 (BPR), with pairs from the impressions of one user.
    """
    known = batch["weight"] * batch["completed_weight"]
    is_pair = ops.cast(ops.equal(batch["user"][1:], batch["user"][:-1]), logits.dtype)
    direction = batch["completed"][1:] - batch["completed"][:-1]  # 1, 0 or -1
    weight = is_pair * ops.abs(direction) * known[1:] * known[:-1]
    values = ops.softplus(-direction * (logits[1:] - logits[:-1]))
    return losses.weighted_mean(values, weight)
