"""The two sides of `training_throughput`: our candidate net, and the same net in stock Keras 3.

Both get the same batches: histories and labels from one power law, negatives from one sampler. The
peer is written as one would from Keras's own guides: `Embedding` layers, `Adam`, `fit`.
"""

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from recsys.candidates.model import CandidateModel
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sizes import CandidateSizes
from recsys.core.random import stream
from recsys.settings import CandidateSettings, TrainingSettings

HISTORY, BATCH_SIZE, WIDTH, NEGATIVES = 50, 1024, 64, 4096
TOWER = (256,)
NUM_USERS = 100_000
LEARNING_RATE = 1e-3


def power_law(num_items: int, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw rows with P(r) = log((r + 2) / (r + 1)) / log(N + 1), about 1 / rank: int32 [size]."""
    rows = np.exp(rng.random(size) * np.log(num_items + 1)) - 1
    return np.minimum(rows, num_items - 1).astype(np.int32)


class Batches:
    """Batches as `TrainingBatches` gives them, one label a user, assembled as they are taken.

    Args:
        num_items: N.
    """

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items
        self._rng = stream(0, "throughput", num_items)
        self._sampler = NegativeSampler({"log_uniform": NEGATIVES}, np.ones(num_items, np.int64))
        self._watches = power_law(num_items, (NUM_USERS, HISTORY), self._rng)

    def take(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield further batches."""
        for _ in range(count):
            users = self._rng.integers(0, NUM_USERS, BATCH_SIZE)
            negatives, log_expected_counts = self._sampler.sample(self._rng)
            yield {
                "history": self._watches[users] + np.int32(1),
                "positions": np.full((BATCH_SIZE, 1), HISTORY, np.int32),
                "labels": power_law(self._num_items, (BATCH_SIZE, 1), self._rng),
                "weight": np.ones((BATCH_SIZE, 1), np.float32),
                "negatives": negatives,
                "log_expected_counts": log_expected_counts,
            }


def our_net(num_items: int, table_optimizer: str) -> CandidateModel:
    """Return the candidate net of the benchmark."""
    settings = CandidateSettings(
        windows=(HISTORY,),
        embedding_width=WIDTH,
        tower=TOWER,
        loss="sampled_softmax",
        negatives={"log_uniform": NEGATIVES},
        training=TrainingSettings(learning_rate=LEARNING_RATE, table_optimizer=table_optimizer),
    )
    return CandidateModel(settings, CandidateSizes(num_items, 0, {}), seed=0)


class StockNet(keras.Model):
    """The same net out of stock layers; its output is the loss of each row."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.watches = keras.layers.Embedding(num_items + 1, WIDTH)
        self.hidden = [keras.layers.Dense(width, activation="relu") for width in TOWER]
        self.to_user_vector = keras.layers.Dense(WIDTH)
        self.outputs = keras.layers.Embedding(num_items, WIDTH)
        self.biases = keras.layers.Embedding(num_items, 1, embeddings_initializer="zeros")

    def call(self, batch: dict) -> object:
        """Return the sampled softmax of each row: [B]."""
        known = ops.cast(ops.not_equal(batch["history"], 0), "float32")[..., None]
        bag = ops.sum(self.watches(batch["history"]) * known, axis=1)
        hidden = bag / ops.maximum(ops.sum(known, axis=1), 1.0)
        for layer in self.hidden:
            hidden = layer(hidden)
        users = self.to_user_vector(hidden)  # [B, D]
        labels, negatives = batch["labels"][:, 0], batch["negatives"]
        label_logits = ops.sum(users * self.outputs(labels), -1) + self.biases(labels)[:, 0]
        logits = ops.matmul(users, ops.transpose(self.outputs(negatives)))
        logits = logits + self.biases(negatives)[:, 0] - batch["log_expected_counts"]
        logits = ops.where(ops.equal(labels[:, None], negatives), -1e9, logits)
        logits = ops.concatenate([label_logits[:, None], logits], axis=1)
        return ops.logsumexp(logits, axis=1) - label_logits


def stock_net(num_items: int) -> StockNet:
    """Return the peer, compiled."""
    net = StockNet(num_items)
    net.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=lambda _, losses: ops.mean(losses),
    )
    return net
