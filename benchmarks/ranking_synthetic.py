"""Position and duration in the synthetic world, where what they do is known.

`recsys.data.sources.world`: a click is likelier at the top of a page, and a longer item is watched
longer. The net is given positions through its shallow tower only (`ranking.bias_categorical`). On
the impressions of the test day it is asked for the click of each at every position, and for the
expected seconds as served, without a position; both are compared with the world's own answers:

    position    mean P(click) at position k over that at position 0
    duration    mean expected seconds by decile of the item's duration, over the mean of all

`worst_..._error` is the largest relative error of any position or decile.

    python -m benchmarks.ranking_synthetic [--events 800000] [--runs runs/benchmarks] [--json]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates import CONFIGS
from benchmarks.output import print_result
from benchmarks.ranking_kuairand import prepare_once
from pipelines import ranking_training, train_ranking
from pipelines.config import load_settings
from pipelines.environment import errors_in_a_line, set_up
from recsys.core.backends import compile_call
from recsys.data.examples import TEST
from recsys.data.prepared import Prepared
from recsys.data.sources import open_log
from recsys.data.sources.world import PAGE_SIZE, World
from recsys.ranking.items import ItemFeatures
from recsys.ranking.model import RankingModel
from recsys.ranking.rows import RankingRows, map_rows
from recsys.ranking.spec import duration_seconds, model_inputs
from recsys.settings import RecsysSettings

CONFIG = CONFIGS / "synthetic.toml"
POSITION = "position"
CHUNK = 8192
NUM_DECILES = 10
MAX_IMPRESSIONS = 100_000


def main() -> None:
    """Train on the world's log, and compare what the net says with the world."""
    set_up()
    started = time.monotonic()
    arguments = _parse_arguments()
    with errors_in_a_line():
        settings = _settings(arguments.events)
        place = arguments.runs / "ranking_synthetic"
        log, _ = prepare_once(settings, place)
        world = open_log(settings.data, settings.seed).truth["world"]
        figures = _train_and_compare(settings, log, world, place)
    print_result(figures, as_json=arguments.json, started=started, events=arguments.events)


def _train_and_compare(
    settings: RecsysSettings, log: Prepared, world: World, place: Path
) -> dict[str, Any]:
    items = ItemFeatures.build(log.catalogue, log.vocabularies, settings.ranking)
    spec = train_ranking.spec_of(log, items, settings.ranking)
    with train_ranking.mapped_rows(log, items, spec, place / "rows") as rows:
        out = place / "net"
        out.mkdir(exist_ok=True)
        model, _ = ranking_training.train_model(
            rows, spec, settings.ranking, out, seed=settings.seed
        )
        calibration = ranking_training.Validation(model, rows).calibration()
    scratch = place / "test_rows"
    scratch.mkdir(exist_ok=True)
    test = map_rows(log, items, spec, (TEST,), scratch)
    users, item, time_us = _who_what_when(log, test)
    chosen = np.random.default_rng(0).permutation(len(test))[:MAX_IMPRESSIONS]
    features = {name: test.features[name][chosen] for name in model_inputs(test.features)}
    asked = (users[chosen], item[chosen], time_us[chosen])
    seconds = _values(model, features, None)["expected_seconds"]
    seconds = seconds * calibration.factors_of(features)[:, 0]
    return {
        **_position_effect(log, model, features, world, asked),
        **_duration_effect(seconds, duration_seconds(features, spec)[:, 0], world, asked),
    }


def _position_effect(
    log: Prepared, model: RankingModel, features: dict[str, np.ndarray], world: World, asked: Any
) -> dict[str, Any]:
    users, items, time_us = asked
    predicted, true = [], []
    for position in range(PAGE_SIZE):
        code = int(log.vocabularies[POSITION].codes([str(position)])[0])
        predicted.append(_values(model, features, code)["click"].mean(dtype=np.float64))
        at = np.full(len(users), position)
        true.append(world.click_probability(users, items, at, time_us).mean())
    found, known = np.array(predicted) / predicted[0], np.array(true) / true[0]
    return {
        "position_effect": found.tolist(),
        "position_effect_true": known.tolist(),
        "worst_position_error": float(np.abs(found / known - 1).max()),
    }


def _duration_effect(
    seconds: np.ndarray, duration: np.ndarray, world: World, asked: Any
) -> dict[str, Any]:
    users, items, time_us = asked
    every_position = [
        world.expected_watch_ms(users, items, np.full(len(users), position), time_us) / 1000
        for position in range(PAGE_SIZE)
    ]
    true = np.mean(every_position, axis=0)
    edges = np.quantile(duration, np.linspace(0, 1, NUM_DECILES + 1)[1:-1])
    decile = np.searchsorted(edges, duration, side="right")
    counts = np.bincount(decile, minlength=NUM_DECILES)
    found, known = (
        np.bincount(decile, values, NUM_DECILES) / counts / values.mean()
        for values in (seconds, true)
    )
    return {
        "duration_effect": found.tolist(),
        "duration_effect_true": known.tolist(),
        "worst_duration_error": float(np.abs(found / known - 1).max()),
        "seconds_ratio_to_truth": float(seconds.mean() / true.mean()),
    }


def _values(
    model: RankingModel, features: dict[str, np.ndarray], position_code: int | None
) -> dict[str, np.ndarray]:
    """Return what the heads say, at a position or, for None, without one: float32 [R] each."""
    asked = {name: values for name, values in features.items() if name != "bias_categorical"}
    number = len(asked["candidate_item"])
    if position_code is not None:
        asked["bias_categorical"] = np.full((number, 1), position_code, np.int32)
    call = compile_call(model, lambda batch: model(batch))
    raw = np.concatenate(
        [
            call({name: values[start : start + CHUNK] for name, values in asked.items()})
            for start in range(0, number, CHUNK)
        ]
    )
    return model.heads.values(raw[:, 0], duration_seconds(features, model.spec)[:, 0])


def _who_what_when(log: Prepared, rows: RankingRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the world's numbers of users and items ('u7' is 7), and the moments: int64 [R]."""
    users, moments = [], []
    for shard in log.shards:
        own = shard.ranking.split == TEST
        names = shard.user_ids[shard.ranking.user[own]]
        users.append(np.char.lstrip(names, b"u").astype(np.int64))
        moments.append(shard.ranking.moment[own])
    items = [int(name[1:]) for name in log.catalogue.vocabulary.ids(rows.item)]
    return np.concatenate(users), np.array(items), np.concatenate(moments)


def _settings(events: int) -> RecsysSettings:
    return load_settings(
        CONFIG,
        [
            "data.options.users=3000",
            "data.options.items=300",
            f"data.options.events={events}",
            'ranking.bias_categorical=["position"]',
            "ranking.heads.click.weight=1.0",
            "ranking.training.tensorboard=false",
        ],
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=800_000, help="impressions, about")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
