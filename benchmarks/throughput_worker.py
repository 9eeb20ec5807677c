"""A side of `training_throughput` in a process of its own: reads a number of steps, takes them.

Each line of standard input is a number of steps; each is answered by one line of JSON, the seconds
that they took and the peak memory of the process so far (of the GPU, where there is one).
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np

from benchmarks.throughput_nets import BATCH_SIZE, HISTORY, Batches, our_net, power_law, stock_net
from recsys.core.backends import compile_step, to_numpy
from recsys.core.optimizers.by_name import new_optimizer
from recsys.core.random import stream
from recsys.settings import TrainingSettings

RULE = "row_adagrad"
OPTIMIZER_WIDTH = 256

Steps = Callable[[int], float]
"""Takes steps, returns the seconds that they took."""


def our_steps(num_items: int) -> Steps:
    """Return steps of our net."""
    net, batches = our_net(num_items, RULE), Batches(num_items)
    optimizer = new_optimizer(net.settings.training, None)
    optimizer.build(net.trainable_variables)
    step = compile_step(net, net.softmax_loss, optimizer)

    def take(count: int) -> float:
        started = time.perf_counter()
        losses = [step(batch)[0] for batch in batches.take(count)]
        to_numpy(losses[-1])
        return time.perf_counter() - started

    return take


class Clock(keras.callbacks.Callback):
    """Times the epochs of `fit`, without what it does before and after."""

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Start."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.started


def stock_steps(num_items: int) -> Steps:
    """Return steps of the peer."""
    net, batches, clock = stock_net(num_items), Batches(num_items), Clock()

    def rows(count: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        unused = np.zeros(BATCH_SIZE, np.float32)  # the net's output is its loss
        return ((batch, unused) for batch in batches.take(count))

    def take(count: int) -> float:
        net.fit(rows(count), steps_per_epoch=count, verbose=0, shuffle=False, callbacks=[clock])
        return clock.seconds

    return take


def optimizer_steps(num_items: int, rule: str) -> Steps:
    """Return steps of an optimizer on one table, as TensorFlow's gradient of a gather comes."""
    import tensorflow as tf

    rng = stream(0, "optimizer")
    table = keras.Variable(np.zeros((num_items, OPTIMIZER_WIDTH), np.float32), name="table")
    ids = tf.constant(power_law(num_items, (BATCH_SIZE * HISTORY,), rng))
    values = tf.constant(rng.standard_normal((len(ids), OPTIMIZER_WIDTH), np.float32))
    shape = tf.constant(table.shape)  # that of `table.value` would cost a copy of it
    optimizer = new_optimizer(TrainingSettings(table_optimizer=rule), None)
    optimizer.build([table])

    @tf.function
    def step() -> None:
        gradient = tf.IndexedSlices(values, ids, shape)
        optimizer.apply([gradient], [table])

    def take(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            step()
        return time.perf_counter() - started

    return take


SIDES: dict[str, Callable[[int], Steps]] = {
    "ours": our_steps,
    "stock": stock_steps,
    "optimizer_ours": lambda num_items: optimizer_steps(num_items, RULE),
    "optimizer_stock": lambda num_items: optimizer_steps(num_items, "adam"),
}


def peak_bytes() -> int:
    """Return the peak memory of the GPU where Keras computes on one, else of the process."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Serve until standard input ends."""
    take = SIDES[sys.argv[1]](int(sys.argv[2]))
    for line in sys.stdin:
        seconds = take(int(line))
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
