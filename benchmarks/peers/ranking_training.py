"""What the nets among the peers share: inputs from flat rows, a tower, a plain training loop.

Codes are embedded from one table (a code without training rows is the zero vector), amounts are
shares of the training distribution with an indicator where they are missing. Adam, and the
weights of the epoch with the least validation loss.

References:
    Kingma & Ba 2015, Adam: A Method for Stochastic Optimization.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from benchmarks.peers.ranking_rows import PeerRows
from recsys.core.backends import Batch, Tensor, compile_call, compile_step, to_numpy
from recsys.core.checkpoint import read_variables, write_variables
from recsys.core.layers.embedding import Embedding
from recsys.core.layers.numeric import QuantileRamps
from recsys.core.layers.tower import Tower
from recsys.core.random import stream, stream_seed
from recsys.ranking.model import quantiles
from recsys.ranking.predictions import FeatureMatrix

BATCH_SIZE = 1024
MAX_EPOCHS = 6
PATIENCE_EPOCHS = 2
NUM_QUANTILES = 100
CHUNK = 2048
"""Rows computed at a time where nothing is learned."""

LEARNING_RATE = 2e-3
EMBEDDING_WIDTH = 8
EMBEDDING_DROPOUT = 0.5
DROPOUT = 0.3
INITIAL_DEVIATION = 0.05
"""These five are those of our own net on the same rows, not of the papers' larger logs."""

Columns = dict[str, np.ndarray]
RowLosses = Callable[[Batch, bool], Tensor]
"""Batch, whether it is trained on -> loss of each row, float32 [B]."""


@dataclass(frozen=True)
class Encoding:
    """How flat rows become the inputs of a net.

    Args:
        categorical: Columns of codes.
        seen: Of each of these, its codes among the training rows, ascending, without 0.
        amounts: The other columns.
        quantiles: float32 [A, n + 1], of each amount.
        with_powers: Whether squares and roots of the shares are inputs, too.
    """

    categorical: tuple[int, ...]
    seen: tuple[np.ndarray, ...]
    amounts: tuple[int, ...]
    quantiles: np.ndarray
    with_powers: bool

    @classmethod
    def fit(cls, training: FeatureMatrix, *, with_powers: bool = False) -> "Encoding":
        """Take codes and quantiles from the training rows."""
        values, categorical = training.values, training.categorical
        amounts = tuple(sorted(set(range(values.shape[1])) - set(categorical)))
        codes = (np.unique(values[:, column]).astype(np.int64) for column in categorical)
        return cls(
            categorical=categorical,
            seen=tuple(column[column > 0] for column in codes),
            amounts=amounts,
            quantiles=quantiles(values[:, amounts], NUM_QUANTILES),
            with_powers=with_powers,
        )

    @property
    def num_codes(self) -> int:
        """Rows of the one table, the zero row included."""
        return 1 + sum(len(codes) for codes in self.seen)

    def inputs(self, rows: FeatureMatrix) -> Columns:
        """Return `codes`, int32 [R, C], and `shares`, float32 [R, S]."""
        ramps = QuantileRamps(self.quantiles, with_powers=self.with_powers)
        values = rows.values[:, self.amounts]
        shares = [
            to_numpy(ramps(values[start : start + CHUNK])) for start in range(0, len(values), CHUNK)
        ]
        return {"codes": self._joint_codes(rows.values), "shares": np.concatenate(shares)}

    def _joint_codes(self, values: np.ndarray) -> np.ndarray:
        """Number the codes of all columns through, 0 for what no training row had."""
        joint = np.zeros((len(values), len(self.categorical)), np.int32)
        first = 1
        for place, (column, seen) in enumerate(zip(self.categorical, self.seen, strict=True)):
            codes = values[:, column].astype(np.int64)
            found = np.searchsorted(seen, codes)
            is_seen = np.isin(codes, seen)
            joint[is_seen, place] = first + found[is_seen]
            first += len(seen)
        return joint


class EmbeddedRows(keras.layers.Layer):
    """Puts the embedded codes and the shares of a row side by side.

    Args:
        encoding: Of the rows.
        seed: Of initial values and dropout.
    """

    def __init__(self, encoding: Encoding, *, seed: int) -> None:
        super().__init__(name="rows")
        self.table = Embedding(
            encoding.num_codes,
            EMBEDDING_WIDTH,
            seed=stream_seed(seed, "table"),
            deviation=INITIAL_DEVIATION,
        )
        self.dropout = keras.layers.Dropout(
            EMBEDDING_DROPOUT, seed=stream_seed(seed, "embedding_dropout")
        )

    def call(self, batch: Batch, training: bool = False) -> Tensor:
        """Return float32 [B, C * width + S]."""
        codes = batch["codes"]
        embedded = ops.reshape(self.table(codes), (-1, codes.shape[1] * EMBEDDING_WIDTH))
        return ops.concatenate(
            [self.dropout(embedded, training=training), batch["shares"]], axis=-1
        )


class TowerNet(keras.Model):
    """A tower of ReLU layers on the embedded rows, and linear outputs.

    Args:
        encoding: Of the rows.
        widths: Of the hidden layers.
        num_outputs: K.
        seed: Of initial values and dropout.
    """

    def __init__(
        self, encoding: Encoding, widths: tuple[int, ...], num_outputs: int, *, seed: int
    ) -> None:
        super().__init__()
        self.rows = EmbeddedRows(encoding, seed=seed)
        self.tower = Tower(widths, DROPOUT, seed=stream_seed(seed, "tower"))
        self.head = keras.layers.Dense(num_outputs, kernel_initializer=new_initializer(seed))

    def call(self, batch: Batch, training: bool = False) -> Tensor:
        """Return the outputs: float32 [B, K]."""
        return self.head(self.tower(self.rows(batch, training=training), training=training))


def new_initializer(seed: int, *names: str | int) -> keras.initializers.Initializer:
    """Return the initial values of a linear layer."""
    return keras.initializers.GlorotUniform(stream_seed(seed, "head", *names))


def labels_of(rows: PeerRows, unit_seconds: float) -> Columns:
    """Return the labels that the nets learn from.

    Args:
        rows: R impressions.
        unit_seconds: Of `watch_time`.

    Returns:
        `watch_time`, `completed`, `completed_weight` (0 where that is unknown): float32 [R] each.
    """
    completed = rows.features.completed
    return {
        "watch_time": rows.watch_seconds / np.float32(unit_seconds),
        "completed": np.maximum(completed, 0).astype(np.float32),
        "completed_weight": (completed >= 0).astype(np.float32),
    }


def unit_of(training: PeerRows) -> float:
    """Return the mean watch time in seconds, the unit that the nets compute in."""
    return float(training.watch_seconds.mean(dtype=np.float64)) or 1.0


def fit(
    net: keras.Model,
    row_losses: RowLosses,
    training: Columns,
    validation: Columns,
    *,
    seed: int,
) -> None:
    """Train, and leave the net with the weights of its best epoch.

    Args:
        net: Takes batches of the columns.
        row_losses: Runs the net.
        training, validation: Inputs and labels, [R, ...] each.
        seed: Of the order of the rows.
    """
    net({name: values[:1] for name, values in training.items()})  # makes the variables
    variables = net.trainable_variables
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(variables)
    step = compile_step(net, lambda batch: (ops.mean(row_losses(batch, True)), {}), optimizer)
    validate = compile_call(net, lambda batch: row_losses(batch, False))
    num_rows = len(training["codes"])
    # A shorter last batch would be traced anew; each epoch leaves other rows out.
    num_taken = max(num_rows // BATCH_SIZE, 1) * BATCH_SIZE
    least, best_epoch, kept = np.inf, 0, list(read_variables(variables))
    for epoch in range(MAX_EPOCHS):
        order = stream(seed, "order", epoch).permutation(num_rows)
        for batch in _batches(training, order[:num_taken], BATCH_SIZE):
            step(batch)
        loss = float(_in_chunks(validate, validation).mean(dtype=np.float64))
        if loss < least:
            least, best_epoch, kept = loss, epoch, list(read_variables(variables))
        elif epoch - best_epoch == PATIENCE_EPOCHS:
            break
    write_variables(variables, kept)


def outputs_of(net: keras.Model, inputs: Columns) -> np.ndarray:
    """Return the net's outputs of all rows: float32 [R, K]."""
    return _in_chunks(compile_call(net, net), inputs)


def _in_chunks(compute: Callable[[Batch], np.ndarray], columns: Columns) -> np.ndarray:
    rows = np.arange(len(columns["codes"]))
    return np.concatenate([compute(batch) for batch in _batches(columns, rows, CHUNK)])


def _batches(
    columns: Mapping[str, np.ndarray], order: np.ndarray, size: int
) -> Iterator[Mapping[str, np.ndarray]]:
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield {name: values[chosen] for name, values in columns.items()}
