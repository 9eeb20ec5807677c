"""A net that trains in no time, with what a checkpoint must not lose: sparse rows, dropout."""

import keras
import numpy as np
from keras import ops

from recsys.core.backends import to_numpy
from recsys.core.random import stream
from recsys.core.training import train
from recsys.settings import TrainingSettings

NUM_IDS, WIDTH = 7, 3


class Net(keras.Model):
    """Dropout over a looked-up row: has sparse gradients and random state."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(
            NUM_IDS, WIDTH, embeddings_initializer=keras.initializers.RandomNormal(seed=3)
        )
        self.dropout = keras.layers.Dropout(0.2, seed=5)
        self.out = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(4))

    def call(self, ids, training=False):
        return self.out(self.dropout(self.table(ids), training=training))[:, 0]


def make_batches(epoch):
    rng = stream(0, "batches", epoch)
    for _ in range(6):
        ids = rng.integers(0, NUM_IDS, 16)
        label = (ids % 2).astype(np.float32)
        yield {"ids": ids, "label": label, "weight": np.ones(16, np.float32)}


def new_net():
    net = Net()
    net(np.zeros(1, np.int64))
    return net


def loss_of(net, training=True):
    def loss(batch):
        error = net(batch["ids"], training=training) - batch["label"]
        return ops.mean(ops.square(error)), {"largest_error": ops.max(ops.abs(error))}

    return loss


def error_of(net):
    ids = np.arange(NUM_IDS)
    return float(np.mean((to_numpy(net(ids)) - ids % 2) ** 2))


def run(
    net, directory, *, batches=make_batches, validate=None, loss=None, after_epoch=None, **changes
):
    settings = {"batch_size": 16, "learning_rate": 0.02, "tensorboard": False, "max_epochs": 3}
    return train(
        net,
        loss or loss_of(net),
        batches,
        validate or (lambda: {"error": error_of(net)}),
        TrainingSettings(**(settings | changes)),
        monitor="error",
        larger_is_better=False,
        directory=directory,
        seed=0,
        description="net",
        num_batches=6,
        after_epoch=after_epoch,
    )


def weights_of(net):
    return np.concatenate([np.ravel(to_numpy(v.value)) for v in net.variables])
