"""Optimizers on both nets at equal time, each at the best of three learning rates.

Every optimizer gets the same processor seconds of steps, compilation and validation not counted.
Rates are tried for a quarter of that. Candidate nets are measured by NDCG@10, ranking nets by their
loss, on the validation day: there the rates are chosen too, and of each curve the best counts.
L-BFGS takes the ranking net by all rows at once, in the same seconds, line searches included.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import keras

from benchmarks.equal_time import Clock, Curve, compile_first, finite_only, train_for
from benchmarks.research_world import RESEARCH, Result, World, once
from pipelines import ranking_training, train_candidates
from pipelines.config import load_settings
from recsys.candidates.vectors import BulkTower
from recsys.core.backends import Loss, compile_step, to_numpy
from recsys.core.optimizers.by_name import new_optimizer
from recsys.core.optimizers.full_batch import minimize
from recsys.core.training import Batches
from recsys.data.examples import TRAINING
from recsys.settings import TrainingSettings

STAGES = ("candidates", "ranking")
RATES = {
    "sgd": {"candidates": 1.0, "ranking": 0.03},
    "momentum": {"candidates": 0.1, "ranking": 0.01},
    "nesterov": {"candidates": 0.1, "ranking": 0.01},
    "adagrad": {"candidates": 0.02, "ranking": 0.01},
    "rmsprop": {"candidates": 2e-3, "ranking": 1e-3},
    "adam": {"candidates": 3e-3, "ranking": 2e-3},
    "adamw": {"candidates": 3e-3, "ranking": 2e-3},
    "adadelta": {"candidates": 1.0, "ranking": 0.3},
}
"""Middle of three learning rates: that of the configurations for Adam, what is usual beside it."""
FACTORS = (1 / 3, 1.0, 3.0)
WEIGHT_DECAY = 0.01
"""Of AdamW."""
SECONDS = {"candidates": 3.0, "ranking": 10.0}
"""Of steps: Adam is at its best well before."""
NUM_LOOKS = 12
TRIAL_SHARE = 4
"""A trial of a rate has a quarter of the seconds and of the looks."""
COMPILED_STEPS = 20
"""Untimed: after so many no new shape of a batch is compiled."""
METRICS = {"candidates": "ndcg@10", "ranking": "loss"}


@dataclass(frozen=True)
class Trainee:
    """A net as it is before its training, and what it takes to train it.

    Args:
        model, loss, batches: As `recsys.core.training.train` takes them.
        measure: The metric of the model as it is.
    """

    model: keras.Model
    loss: Loss
    batches: Batches
    measure: Callable[[], float]


def compare(world: World, stage: str) -> dict[str, Result]:
    """Return what each optimizer reaches on the net of a stage, and its curve."""
    table = {}
    for name, rates in RATES.items():
        what = ["equal time", stage, name, rates[stage], FACTORS, SECONDS[stage], NUM_LOOKS]
        table[name] = once(world, what, lambda _, name=name: _at_best_rate(world, stage, name))
        print(f"{stage:12} {name:10} {table[name]['best']:.4f}", flush=True)
    if stage == "ranking":
        what = ["equal time", stage, "l-bfgs", SECONDS[stage]]
        table["l-bfgs"] = once(world, what, lambda _: _full_batch(world))
        print(f"{stage:12} {'l-bfgs':10} {table['l-bfgs']['best']:.4f}", flush=True)
    return table


def _at_best_rate(world: World, stage: str, name: str) -> Result:
    seconds, is_up = SECONDS[stage], stage == "candidates"
    run = partial(_train, world, stage, name)
    tried = {}
    for factor in FACTORS:
        rate = factor * RATES[name][stage]
        curve = run(rate, seconds / TRIAL_SHARE, NUM_LOOKS // TRIAL_SHARE)
        tried[rate] = curve.best(larger_is_better=is_up)
    rate = (max if is_up else min)(tried, key=tried.__getitem__)
    curve = run(rate, seconds, NUM_LOOKS)
    return _row(curve, stage) | {"learning_rate": rate, "tried": list(tried.values())}


def _row(curve: Curve, stage: str) -> Result:
    best = curve.best(larger_is_better=stage == "candidates")
    return {
        "best": best,
        "best_seconds": curve.seconds[curve.values.index(best)],
        "steps": curve.num_steps[-1],
        **asdict(curve),
    }


def _train(
    world: World, stage: str, name: str, rate: float, seconds: float, num_looks: int
) -> Curve:
    trainee = _candidates(world) if stage == "candidates" else _ranking(world)
    decay = WEIGHT_DECAY if name == "adamw" else 0.0
    settings = TrainingSettings(optimizer=name, learning_rate=rate, weight_decay=decay)
    optimizer = new_optimizer(settings, None)
    optimizer.build(trainee.model.trainable_variables)
    step = compile_step(trainee.model, trainee.loss, optimizer)

    def losses() -> Iterator[float]:
        epoch = 0
        while True:
            for batch in trainee.batches(epoch):
                yield float(to_numpy(step(batch)[0]))
            epoch += 1

    steps = compile_first(
        lambda: finite_only(losses()), trainee.model.variables, optimizer, COMPILED_STEPS
    )
    trainee.measure()  # compiles too
    return train_for(steps, trainee.measure, seconds=seconds, num_looks=num_looks)


def _candidates(world: World) -> Trainee:
    settings = load_settings(RESEARCH / "plain.toml").candidates
    model = train_candidates.new_model(world.log, settings, seed=0)
    batches = train_candidates.training_batches(world.log, settings, seed=0)
    ranking = train_candidates.validation_ranking(world.log, settings, seed=0)
    tower = BulkTower(model)

    def measure() -> float:
        found = ranking.metrics(tower(ranking.inputs), model.item_vectors())
        return found[METRICS["candidates"]]

    return Trainee(model, model.softmax_loss, batches, measure)


def _ranking(world: World) -> Trainee:
    settings = load_settings(RESEARCH / "plain.toml").ranking
    chosen = ranking_training.rows_of(world.rows, TRAINING, "training")
    net, batches = ranking_training.model_and_batches(world.rows, chosen, world.spec, settings, 0)
    validation = ranking_training.Validation(net, world.rows)
    # A net that is lost has no finite loss, which is then left out.
    return Trainee(
        net, net.loss_of, batches, lambda: validation.metrics().get(METRICS["ranking"], math.inf)
    )


def _full_batch(world: World) -> Result:
    """Train the whole ranking net by L-BFGS, all rows at once, and measure it after each step."""
    trainee, clock, curve = _ranking(world), Clock(), Curve()
    seconds, num_batches = SECONDS["ranking"], 0

    def batches() -> Iterator[Any]:
        nonlocal num_batches
        for batch in trainee.batches(0):
            num_batches += 1
            if num_batches == 1:  # All is compiled in it.
                yield batch
                continue
            with clock.running():
                yield batch

    def is_enough() -> bool:
        curve.seconds.append(clock.seconds)
        curve.num_steps.append(len(curve.num_steps) + 1)
        curve.values.append(trainee.measure())
        return clock.seconds >= seconds

    found = minimize(
        partial(trainee.model.loss_of, training=False),
        trainee.model.trainable_variables,
        batches,
        method="l-bfgs",
        max_iterations=1000,
        is_enough=is_enough,
    )
    return _row(curve, "ranking") | {"passes": found.num_passes}
