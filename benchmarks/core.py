"""What the parts of the training core are worth: optimizers, layers, encoders, ensembles.

On the small synthetic world of pipelines/configs/research. Optimizers get the same epochs, and time
is the processor's, of all threads: seconds on a wall say little beside other work. All else is
trained as its configuration says, over seeds. Candidate nets are measured on the test day (NDCG@10,
HR@50, seen items filtered), ranking nets on the validation day, which also stopped them. Trainings
are kept below `--runs` and taken up again.

    python -m benchmarks.core [--seeds 0,1,2] [--plot FILE.svg] [--json]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks import gradient_cases
from benchmarks.candidates import CONFIGS, each_metric, parts_of, test_labels
from benchmarks.output import print_result
from benchmarks.ranking_kuairand import prepare_once
from benchmarks.watch_nets import measure_watch_net
from pipelines import ranking_members, ranking_training, train_candidates, train_ranking
from pipelines.config import load_settings
from recsys.artefacts import hash_json
from recsys.candidates.sequences import join_sequences
from recsys.candidates.side_by_side import SideBySide
from recsys.candidates.vectors import ValidationRanking
from recsys.core.gradient_check import LARGEST_ERROR
from recsys.core.optimizers.full_batch import minimize
from recsys.core.training import AfterEpoch, TrainingHistory
from recsys.data.examples import TRAINING
from recsys.data.prepared import Prepared
from recsys.evaluation.plots import INK, SERIES, side_by_side
from recsys.ranking.items import ItemFeatures
from recsys.ranking.rows import RankingRows
from recsys.ranking.spec import FeatureSpec
from recsys.settings import RecsysSettings

RESEARCH = CONFIGS / "research"
LIBRARY = Path(__file__).parents[1] / "recsys"
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
"""Learning rates, one each, not searched: that of the configurations for Adam, and what is usual
beside it. Plain gradient descent at 1 loses the ranking net within four steps."""
FULL_BATCH_ITERATIONS = 15
WEIGHT_DECAY = 0.01
"""Of AdamW."""
NETS = {
    "candidates": ("plain", "residual", "bottleneck", "gru", "lstm", "convolution", "attention")
    + ("capsules", "averaging", "skip_gram", "auto_encoder", "variational"),
    "ranking": ("plain", "residual", "bottleneck", "averaging", "solved_heads"),
}
"""By stage; a name is a configuration, or an encoder of the plain one."""
ENCODERS = ("gru", "attention")
WATCH_NETS = ("auto_encoder", "variational")
"""Configurations whose net for the first item vectors is measured as a recommender as well."""
ENSEMBLES = {"1": {}, "3 seeds": {"ensemble": 3}, "3 bagged": {"ensemble": 3, "bagged": True}}
Result = dict[str, Any]


@dataclass(frozen=True)
class World:
    """The log that all nets here are trained on.

    Args:
        log, prepared: And where it lies.
        rows, spec: Of the ranking net.
        place: For trainings.
    """

    log: Prepared
    prepared: Path
    rows: RankingRows
    spec: FeatureSpec
    place: Path


def main() -> None:
    """Check the gradients, train everything that is not trained yet, print, plot."""
    started = time.monotonic()
    arguments = _parse_arguments()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    with _world(arguments.runs / "core") as world:
        optimizers = _optimizers(world)
        nets = {stage: _nets(world, stage, seeds) for stage in NETS}
        nets["watch_vectors"] = _watch_nets(world, seeds)
        ensembles = _ensembles(world, seeds)
        sources = {str(path): path.read_text() for path in sorted(LIBRARY.rglob("*.py"))}
        checked = _once(world, ["gradients", sources], lambda _: {"names": _checked()})["names"]
    if arguments.plot is not None:
        arguments.plot.write_text(
            side_by_side([_draw(stage, optimizers[stage]) for stage in optimizers])
        )
    alone, together = ensembles["1"]["loss"], ensembles["3 seeds"]["loss"]
    print_result(
        {"ensemble_gain": 1 - together / alone},
        as_json=arguments.json,
        started=started,
        gradient_checked=checked,
        gradient_cases=len(gradient_cases.CASES),
        optimizers=optimizers,
        nets=nets,
        ensembles=ensembles,
        seeds=seeds,
    )


@contextmanager
def _world(place: Path) -> Iterator[World]:
    settings = load_settings(RESEARCH / "plain.toml")
    log, prepared = prepare_once(settings, place)
    items = ItemFeatures.build(log.catalogue, log.vocabularies, settings.ranking)
    spec = train_ranking.spec_of(log, items, settings.ranking)
    with train_ranking.mapped_rows(log, items, spec, place / "rows") as rows:
        yield World(log, prepared, rows, spec, place)


def _checked() -> list[str]:
    """Return the layers and losses whose gradients are those of central differences."""
    return [
        name
        for name in gradient_cases.CASES
        if max(gradient_cases.check(name).values()) <= LARGEST_ERROR
    ]


def _once(world: World, what: Any, work: Callable[[Path], Result]) -> Result:
    """Do the work in a directory of its own, unless its result is there."""
    directory = world.place / hash_json([world.prepared.name, what])[:16]
    result = directory / "result.json"
    if not result.exists():
        directory.mkdir(parents=True, exist_ok=True)
        found = work(directory)
        result.write_text(json.dumps(found) + "\n")
    return json.loads(result.read_text())


def _optimizers(world: World) -> dict[str, dict[str, Result]]:
    """Return what each optimizer reaches, by stage."""
    table: dict[str, dict[str, Result]] = {}
    for stage in NETS:
        table[stage] = {}
        for name, rates in RATES.items():
            table[stage][name] = _with_optimizer(world, stage, name, rates[stage])
            print(f"{stage:12} {name:10} {table[stage][name]['best']:.4f}", flush=True)
    what = ["full batch", FULL_BATCH_ITERATIONS]
    table["ranking"]["l-bfgs"] = _once(world, what, partial(_full_batch, world))
    return table


def _with_optimizer(world: World, stage: str, name: str, rate: float) -> Result:
    changes = {
        "optimizer": f'"{name}"',
        "learning_rate": rate,
        "weight_decay": WEIGHT_DECAY if name == "adamw" else 0.0,
        "patience": 1000,
        "tensorboard": "false",
    }
    overrides = [f"{stage}.training.{key}={value}" for key, value in changes.items()]
    settings = load_settings(RESEARCH / "plain.toml", overrides)

    def work(directory: Path) -> Result:
        clock, started = [], time.process_time()
        history = _train(
            world,
            settings,
            stage,
            directory,
            after_epoch=lambda _: clock.append(time.process_time() - started),
        )
        metric = "ndcg@10" if stage == "candidates" else "loss"
        return {
            "best": history.best_metrics[metric],
            "learning_rate": rate,
            "processor_seconds": clock,
            "curve": [epoch.metrics[metric] for epoch in history.epochs],
        }

    return _once(world, ["optimizer", stage, changes], work)


def _train(
    world: World, settings: RecsysSettings, stage: str, directory: Path, *, after_epoch: AfterEpoch
) -> TrainingHistory:
    if stage == "ranking":
        _, history = ranking_training.train_model(
            world.rows, world.spec, settings.ranking, directory, seed=0, after_epoch=after_epoch
        )
        return history
    model = train_candidates.new_model(world.log, settings.candidates, seed=0)
    return train_candidates.train_model(
        model, world.log, directory, seed=0, after_epoch=after_epoch
    )


def _full_batch(world: World, directory: Path) -> Result:
    """Train the whole ranking net by L-BFGS over all rows at once."""
    settings = load_settings(RESEARCH / "plain.toml").ranking
    chosen = ranking_training.rows_of(world.rows, TRAINING, "training")
    net, batches = ranking_training.model_and_batches(world.rows, chosen, world.spec, settings, 0)
    started = time.process_time()
    found = minimize(
        partial(net.loss_of, training=False),
        net.trainable_variables,
        partial(batches, 0),
        method="l-bfgs",
        max_iterations=FULL_BATCH_ITERATIONS,
    )
    seconds = time.process_time() - started
    loss = ranking_training.Validation(net, world.rows).metrics()["loss"]
    return {
        "best": loss,
        "passes": found.num_passes,
        "processor_seconds": [seconds],
        "curve": [loss],
    }


def _nets(world: World, stage: str, seeds: list[int]) -> dict[str, Result]:
    """Return the figures of each configuration of a stage, means over seeds."""
    table = {}
    for name in NETS[stage]:
        settings = _settings_of(name)
        measure = _measure_candidates if stage == "candidates" else _measure_ranking
        part = settings.model_dump(mode="json")[stage]
        found = [
            _once(world, [stage, part, seed], partial(measure, world, settings, seed))
            for seed in seeds
        ]
        table[name] = _over_seeds(found)
        shown = "  ".join(f"{key} {value:.4f}" for key, value in table[name].items())
        print(f"{stage:12} {name:14} {shown}", flush=True)
    return table


def _watch_nets(world: World, seeds: list[int]) -> dict[str, Result]:
    """Return the figures of the auto-encoders alone, means over seeds."""
    table = {}
    for name in WATCH_NETS:
        settings = _settings_of(name)
        part = settings.model_dump(mode="json")["candidates"]
        table[name] = _over_seeds(
            [
                _once(
                    world,
                    ["watch_vectors", part, seed],
                    partial(measure_watch_net, world.log, settings, seed),
                )
                for seed in seeds
            ]
        )
        shown = "  ".join(f"{key} {value:.4f}" for key, value in table[name].items())
        print(f"watch vectors {name:14} {shown}", flush=True)
    return table


def _settings_of(name: str) -> RecsysSettings:
    quiet = [f"{stage}.training.tensorboard=false" for stage in NETS]
    if name in ENCODERS:
        quiet.append(f'candidates.encoder="{name}"')
        name = "plain"
    return load_settings(RESEARCH / f"{name}.toml", quiet)


def _measure_candidates(
    world: World, settings: RecsysSettings, seed: int, directory: Path
) -> Result:
    log, candidates = world.log, settings.candidates
    model = train_candidates.new_model(log, candidates, seed=seed)
    started = time.process_time()
    train_candidates.begin(model, log, directory)
    train_candidates.train_model(model, log, directory, seed=seed)
    seconds = time.process_time() - started
    ranking = ValidationRanking(
        join_sequences(parts_of(log)), test_labels(log, settings), candidates
    )
    nets = SideBySide([model])
    ranks = ranking.ranks(nets.user_vectors(ranking.inputs), nets.item_vectors())
    metrics = {name: float(values.mean()) for name, values in each_metric(ranks).items()}
    return {"ndcg@10": metrics["ndcg@10"], "hr@50": metrics["hr@50"], "processor_seconds": seconds}


def _measure_ranking(world: World, settings: RecsysSettings, seed: int, directory: Path) -> Result:
    started = time.process_time()
    net, _ = ranking_members.train_members(
        world.rows, world.spec, settings.ranking, directory, seed=seed
    )
    seconds = time.process_time() - started
    metrics = ranking_training.Validation(net, world.rows).metrics()
    return {name: metrics[name] for name in ("loss", "gauc", "xauc")} | {
        "processor_seconds": seconds
    }


def _ensembles(world: World, seeds: list[int]) -> dict[str, Result]:
    """Return what the mean of several ranking nets gains; seeds of an ensemble are its own."""
    table = {}
    for name, changes in ENSEMBLES.items():
        settings = _settings_of("plain")
        ranking = settings.ranking.model_copy(
            update={
                "ensemble": changes.get("ensemble", 1),
                "ensemble_bagged": changes.get("bagged", False),
            }
        )
        whole = settings.model_copy(update={"ranking": ranking})
        part = ranking.model_dump(mode="json")
        found = [
            _once(world, ["ranking", part, seed], partial(_measure_ranking, world, whole, seed))
            for seed in seeds
        ]
        table[name] = _over_seeds(found)
        shown = "  ".join(f"{key} {value:.4f}" for key, value in table[name].items())
        print(f"ensemble of {name:10} {shown}", flush=True)
    return table


def _over_seeds(found: list[Mapping[str, float]]) -> Result:
    first = next(iter(found[0]))
    means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    return means | {f"{first}_deviation": float(np.std([each[first] for each in found]))}


def _draw(stage: str, table: Mapping[str, Result]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for place, (name, found) in enumerate(table.items()):
            style = "-" if place < len(SERIES) else "--"
            axes.plot(
                found["processor_seconds"],
                found["curve"],
                color=SERIES[place % len(SERIES)],
                linestyle=style,
                marker="o" if len(found["curve"]) == 1 else None,
                label=name,
            )
        metric = "NDCG@10" if stage == "candidates" else "loss"
        axes.set_title(f"{stage}: {metric} of the validation day")
        axes.set_xlabel("processor seconds of training and validation", color=INK)
        axes.legend(fontsize=7, ncols=2)

    return draw


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2", help="of nets and ensembles")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
