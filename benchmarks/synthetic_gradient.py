"""Synthetic gradients against backpropagation through time, on histories of 200, at equal time.

A GRU reads a history and says what comes next. It learns by backpropagation through all 200 steps
(a step of the optimizer each 200 watches), by chunks of 8 without a gradient between them (a step
each 8), by chunks of 8 with a predicted gradient at their end, and by BP(1/2), which mixes the true
gradient with the predicted one at every cut and steps each 200. The tasks are those of
`benchmarks.long_histories`. Rates are chosen for each method on the first seed, by what it reaches.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from benchmarks.equal_time import Curve, compile_first, finite_only, train_for
from benchmarks.long_histories import BATCH, CHUNK, LENGTH, Histories, Task
from recsys.core.backends import Batch, Tensor, compile_call, compile_step, to_numpy
from recsys.core.layers.dense import Dense
from recsys.core.layers.embedding import Embedding
from recsys.core.layers.prefixes import at_prefixes
from recsys.core.optimizers.by_name import new_optimizer
from recsys.core.random import stream, stream_seed
from recsys.core.synthetic_gradient import GradientPredictor, cut, loss_ahead
from recsys.settings import TrainingSettings

WIDTH = 32
"""Of the items' rows and of the GRU."""
PREDICTOR_UNITS = 64
RATES = (3e-3, 1e-2)
"""Of Adam, for all weights."""
SECONDS, NUM_LOOKS = 15.0, 15
"""Of a training; measurements in it."""


@dataclass(frozen=True)
class Method:
    """How a net learns from a history.

    Args:
        step_watches: Watches between two steps of the optimizer.
        has_predictor: Whether cuts, each `CHUNK` watches, have a predicted gradient.
        true_share: lambda of the cuts within a step.
        knows_labels: Whether the predictor is told the labels behind the cut.
    """

    step_watches: int
    has_predictor: bool = False
    true_share: float = 0.0
    knows_labels: bool = True


METHODS = {
    "backpropagation": Method(LENGTH),
    "truncated": Method(CHUNK),
    "synthetic": Method(CHUNK, has_predictor=True),
    "synthetic, no labels": Method(CHUNK, has_predictor=True, knows_labels=False),
    "mixed, lambda .5": Method(LENGTH, has_predictor=True, true_share=0.5),
}


class HistoryNet(keras.Model):  # type: ignore[misc]
    """Rows of items, a GRU, logits of what comes next; and the predictor of its gradients.

    Args:
        task: What is learned.
        method: How.
        seed: Of initial values.
    """

    def __init__(self, task: Task, method: Method, *, seed: int) -> None:
        super().__init__()
        self.method = method
        self.table = Embedding(task.num_items + 1, WIDTH, seed=stream_seed(seed, "table"))
        self.reader = keras.layers.GRU(
            WIDTH,
            return_sequences=True,
            return_state=True,
            kernel_initializer=keras.initializers.GlorotUniform(stream_seed(seed, "gru")),
            recurrent_initializer=keras.initializers.Orthogonal(seed=stream_seed(seed, "inner")),
        )
        start = keras.initializers.GlorotUniform(stream_seed(seed, "logits"))
        self.output_layer = Dense(task.num_labels, start)
        self.predictor = None
        self.table.build((None, None))
        self.reader.build((None, None, WIDTH))
        self.output_layer.build((None, WIDTH))
        if method.has_predictor:
            self.predictor = GradientPredictor(PREDICTOR_UNITS, seed=seed)
            self.predictor.build((None, WIDTH), (None, task.num_labels))
        self.built = True

    def logits_at(self, batch: Batch) -> Tensor:
        """Return the logits after prefixes: `items` [B, T], `places` [B, P] -> [B, P, L]."""
        states, _ = self.reader(self.table(batch["items"]))
        return self.output_layer(at_prefixes(states, batch["places"] - 1))

    def loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum over the labels of a step, and the `state` after it.

        The batch has parts of `Histories`, the `state` [B, D] before them, and `continues`, 1 where
        more of the histories is to come.
        """
        state, total = batch["state"], 0.0
        chunk = CHUNK if self.predictor is not None else self.method.step_watches
        for number in range(self.method.step_watches // chunk):
            part = slice(number * chunk, (number + 1) * chunk)
            if self.predictor is not None:
                share = self.method.true_share
                state = cut(state, batch["ahead"][:, number], self.predictor, true_share=share)
            states, state = self.reader(self.table(batch["items"][:, part]), initial_state=state)
            values = ops.sparse_categorical_crossentropy(
                batch["labels"][:, part], self.output_layer(states), from_logits=True
            )
            total = total + ops.sum(values * batch["weight"][:, part])
        if self.predictor is not None:
            later = loss_ahead(state, batch["ahead"][:, -1], self.predictor)
            total = total + ops.sum(later) * batch["continues"]
        return total, {"state": state}


def protocol() -> list[Any]:
    """Return what a comparison depends on besides its task and seeds."""
    methods = {name: asdict(method) for name, method in METHODS.items()}
    return [methods, RATES, SECONDS, NUM_LOOKS, WIDTH, PREDICTOR_UNITS]


def compare(task: Task, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """Train by each method; return its rate, and the curve and the figures of every seed."""
    table = {}
    for name, method in METHODS.items():
        run = partial(_train, task, method)
        tried = {rate: run(rate, seeds[0]) for rate in RATES}
        rate = max(tried, key=lambda rate: _merit(tried[rate]))
        curves = [tried[rate], *(run(rate, seed) for seed in seeds[1:])]
        table[name] = _row(rate, curves)
        shown = f"{table[name]['metric']:.4f} (rate {rate:g}, {table[name]['steps']} steps)"
        print(f"{name:22} {shown}", flush=True)
    return table


def _merit(curve: Curve) -> tuple[float, float]:
    """Return the best of a curve; of equal ones, the one that was there first is better."""
    return curve.best(larger_is_better=True), float(np.sum(curve.values))


def _row(rate: float, curves: list[Curve]) -> dict[str, Any]:
    best = [curve.best(larger_is_better=True) for curve in curves]
    return {
        "metric": float(np.mean(best)),
        "metric_deviation": float(np.std(best)),
        "seconds": SECONDS,
        "steps": int(np.mean([curve.num_steps[-1] for curve in curves])),
        "learning_rate": rate,
        "curves": [asdict(curve) for curve in curves],
    }


def _train(task: Task, method: Method, rate: float, seed: int) -> Curve:
    net = HistoryNet(task, method, seed=seed)
    optimizer = new_optimizer(TrainingSettings(learning_rate=rate), None)
    optimizer.build(net.trainable_variables)
    step = compile_step(net, net.loss_of, optimizer)
    logits = compile_call(net, net.logits_at)
    new_steps = partial(_steps, step, task, method, seed)
    steps = compile_first(new_steps, net.variables, optimizer, LENGTH // CHUNK)
    held_out = {"items": task.items, "places": task.places}

    def measure() -> float:
        return task.metric(logits(held_out))

    measure()  # compiles too
    return train_for(steps, measure, seconds=SECONDS, num_looks=NUM_LOOKS)


def _steps(
    step: Callable[[Mapping[str, np.ndarray]], Any], task: Task, method: Method, seed: int
) -> Iterator[float]:
    """Yield the loss of each step, batch of histories after batch, from their first watch on."""

    def losses() -> Iterator[float]:
        rng = stream(seed, "histories")
        while True:
            state = np.zeros((BATCH, WIDTH), np.float32)
            for batch in pieces(task.draw(rng), method):
                value, figures = step({**batch, "state": state})
                state = to_numpy(figures["state"])
                yield float(to_numpy(value))

    return finite_only(losses())


def pieces(histories: Histories, method: Method) -> Iterator[dict[str, np.ndarray]]:
    """Yield what each step takes of a batch of histories, the oldest first."""
    length, chunks = histories.items.shape[1], method.step_watches // CHUNK
    for first in range(0, length, method.step_watches):
        watches = slice(first, first + method.step_watches)
        ahead = histories.ahead[:, first // CHUNK : first // CHUNK + chunks + 1]
        yield {
            "items": histories.items[:, watches],
            "labels": histories.labels[:, watches],
            "weight": histories.weight[:, watches],
            "ahead": ahead if method.knows_labels else np.zeros_like(ahead),
            "continues": np.float32(first + method.step_watches < length),
        }
