"""What the parts of the training core are worth: optimizers, layers, encoders, ensembles.

On the small synthetic world of pipelines/configs/research. Optimizers (`benchmarks.optimizers`) and
synthetic gradients (`benchmarks.synthetic_gradient`) get equal time; all else is trained as its
configuration says, over seeds. Time is the processor's, of all threads: seconds on a wall say
little beside other work. Candidate nets are measured on the test day (NDCG@10, HR@50, seen items
filtered), ranking nets on the validation day, which also stopped them. The policy gradient is that
of `benchmarks.policy_gradient`. What is done is kept below `--runs` and not done again.

    python -m benchmarks.core [--seeds 0,1,2] [--plots DIRECTORY] [--json]
"""

import argparse
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import (
    gradient_cases,
    long_histories,
    optimizers,
    policy_gradient,
    synthetic_gradient,
)
from benchmarks.candidates import each_metric, parts_of, test_labels
from benchmarks.equal_time import draw_curves
from benchmarks.output import print_result
from benchmarks.ranking_kuairand import prepare_once
from benchmarks.research_world import RESEARCH, Result, World, once, open_world
from benchmarks.watch_nets import measure_watch_net
from pipelines import ranking_members, ranking_training, train_candidates
from pipelines.config import load_settings
from recsys.candidates.sequences import join_sequences
from recsys.candidates.side_by_side import SideBySide
from recsys.candidates.vectors import ValidationRanking
from recsys.core.gradient_check import LARGEST_ERROR
from recsys.evaluation.plots import side_by_side
from recsys.settings import RecsysSettings

LIBRARY = Path(__file__).parents[1] / "recsys"
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
NUM_HELD_OUT = 500
"""Histories of the world of reminders."""
SHOWN_LOSS = 2.1
"""Of the ranking net: L-BFGS begins far above."""
LONG_LOG = ("data.options.users=1000", "data.options.events=1000000")
"""Of the plain configuration: half of the users then have the 200 watches that a history needs."""


def main() -> None:
    """Check the gradients, train everything that is not trained yet, print, plot."""
    started = time.monotonic()
    arguments = _parse_arguments()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    with open_world(arguments.runs / "core") as world:
        by_optimizer = {stage: optimizers.compare(world, stage) for stage in NETS}
        long_memory = _synthetic_gradient(world, seeds)
        nets = {stage: _nets(world, stage, seeds) for stage in NETS}
        nets["watch_vectors"] = _watch_nets(world, seeds)
        ensembles = _ensembles(world, seeds)
        sources = {str(path): path.read_text() for path in sorted(LIBRARY.rglob("*.py"))}
        checked = once(world, ["gradients", sources], lambda _: {"names": _checked()})["names"]
    if arguments.plots is not None:
        _plot(arguments.plots, by_optimizer, long_memory)
    gains = policy_gradient.gains(
        policy_gradient.SEEDS, policy_gradient.DAYS, arguments.runs / "policy_gradient"
    )
    alone, together = ensembles["1"]["loss"], ensembles["3 seeds"]["loss"]
    print_result(
        {
            "ten_item_world_solved": policy_gradient.ten_item_world_solved(),
            "policy_gradient_gain": gains["policy_gradient_gain"],
            "ensemble_gain": 1 - together / alone,
        },
        as_json=arguments.json,
        started=started,
        gradient_checked=checked,
        gradient_cases=len(gradient_cases.CASES),
        synthetic_gradient=long_memory,
        optimizers=by_optimizer,
        nets=nets,
        ensembles=ensembles,
        seeds=seeds,
    )


def _synthetic_gradient(world: World, seeds: list[int]) -> dict[str, Result]:
    """Return what each method of learning from long histories reaches, by task."""
    log, _ = prepare_once(load_settings(RESEARCH / "plain.toml", LONG_LOG), world.place)
    histories = join_sequences(parts_of(log)).histories
    tasks = {
        "reminders": long_histories.reminders(NUM_HELD_OUT),
        "next item": long_histories.next_item(histories, log.catalogue.num_trained),
    }
    table = {}
    for name, task in tasks.items():
        compare = partial(synthetic_gradient.compare, task, seeds)
        what = ["synthetic gradient", name, seeds, synthetic_gradient.protocol()]
        table[name] = once(world, what, lambda _, compare=compare: compare())
    return table


def _plot(
    directory: Path, by_optimizer: dict[str, dict[str, Result]], long_memory: dict[str, Result]
) -> None:
    panels = [
        draw_curves("candidate net, validation day", by_optimizer["candidates"], label="NDCG@10"),
        draw_curves(
            "ranking net, validation day",
            by_optimizer["ranking"],
            label="loss",
            limits=(None, SHOWN_LOSS),
        ),
    ]
    (directory / "core_optimizers.svg").write_text(side_by_side(panels, height=3.4, columns=1))
    labels = {
        "reminders": ("a series to come back to", "share of right answers"),
        "next item": ("next item, synthetic log", "NDCG@10"),
    }
    panels = [
        draw_curves(
            labels[task][0],
            {name: found["curves"][0] for name, found in rows.items()},
            label=labels[task][1],
        )
        for task, rows in long_memory.items()
    ]
    (directory / "core_synthetic_gradient.svg").write_text(
        side_by_side(panels, height=3.0, columns=1)
    )


def _checked() -> list[str]:
    """Return the layers and losses whose gradients are those of central differences."""
    return [
        name
        for name in gradient_cases.CASES
        if max(gradient_cases.check(name).values()) <= LARGEST_ERROR
    ]


def _nets(world: World, stage: str, seeds: list[int]) -> dict[str, Result]:
    """Return the figures of each configuration of a stage, means over seeds."""
    table = {}
    for name in NETS[stage]:
        settings = _settings_of(name)
        measure = _measure_candidates if stage == "candidates" else _measure_ranking
        part = settings.model_dump(mode="json")[stage]
        found = [
            once(world, [stage, part, seed], partial(measure, world, settings, seed))
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
                once(
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
            once(world, ["ranking", part, seed], partial(_measure_ranking, world, whole, seed))
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


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2", help="of nets and ensembles")
    parser.add_argument("--plots", type=Path, help="directory that gets both plots")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
