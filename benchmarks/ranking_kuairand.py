"""Ranking stage on KuaiRand-Pure: watch seconds and long views of the impressions of 1 to 4 May.

The part of Pure with all impressions of ten days. Days up to 30 April 2022 (the log's own `date`)
are learned from: the net stops by 30 April, and is then trained anew through it (`ranking.refit`).
Watch seconds are of every impression, clicked or not; XAUC leaves out pairs of equal watch time;
GAUC is within users, weighted by impressions. Every peer gets the same rows and the same features
but the sequences, and stops by 30 April; LightGBM is trained anew through it as the net is.

    python -m benchmarks.ranking_kuairand [--data DIR] [--seeds 0,1,2,3,4] [--json]

`beats_lightgbm` says of each metric whether the 95 % interval of the difference to the better of
the LightGBM peers lies on our side: users are drawn, and with each draw the seed.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates import CONFIGS
from benchmarks.output import print_result
from benchmarks.peers.ranking_peers import PEERS
from benchmarks.peers.ranking_rows import PeerRows, Scores
from benchmarks.real_logs import find_logs
from pipelines import train_ranking
from pipelines.config import load_settings
from pipelines.environment import errors_in_a_line, set_up
from pipelines.prepare import prepare
from pipelines.run import settings_of
from recsys.artefacts import hash_json
from recsys.data.examples import TEST, TRAINING, VALIDATION
from recsys.data.prepared import Prepared, load_prepared
from recsys.data.sources import open_log
from recsys.evaluation.intervals import statistic_interval
from recsys.evaluation.ranking import gauc, mae, seconds_ratio, xauc
from recsys.evaluation.ranking_baselines import item_means
from recsys.ranking.predictions import Predictions, feature_matrix, ranking_predictions
from recsys.settings import RecsysSettings

CONFIG = CONFIGS / "kuairand.toml"
LOG = "kuairand-pure"
DONE = "seconds.txt"
"""Written last: how long the training took."""
NUM_TEST_IMPRESSIONS = 75_127
MIN_TAB_IMPRESSIONS = 1000
BOOTSTRAP_ROUNDS = 100
NUM_PEER_SEEDS = 3
"""Of ours that the peers are fitted with too: they differ less by seed than among each other."""
LIGHTGBM = ("lightgbm", "lightgbm_lambdarank")
HEADS = {
    "mae_seconds": "median_seconds",
    "xauc_median": "median_seconds",
    "xauc_expected": "expected_seconds",
    "gauc_completion": "completion",
}
"""Metric -> the score it is of."""


def main() -> None:
    """Train or take up the nets, fit the peers, compare all on the test impressions."""
    set_up()
    started = time.monotonic()
    arguments = _parse_arguments()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    with errors_in_a_line():
        settings = settings_of_log(arguments.data, arguments.set)
        place = arguments.runs / "ranking_kuairand"
        log, prepared = prepare_once(settings, place)
        nets = [
            train_once(settings, prepared, place, seed, is_anew=arguments.retrain) for seed in seeds
        ]
        tests = [ranking_predictions(settings.ranking, log, net, TEST) for net in nets]
        peer_seeds = seeds[:NUM_PEER_SEEDS]
        peers = _fit_peers(settings, log, nets[0], peer_seeds, arguments.peers.split(","))
        figures = _figures(log, tests, peers)
        figures["impressions_per_second"] = _impressions_per_second(settings, prepared)
    print_result(
        figures,
        as_json=arguments.json,
        started=started,
        protocol="KuaiRand-Pure part, train to 30 April 2022, test 1 to 4 May, every impression",
        seeds=seeds,
        test_impressions=len(tests[0].watch_ms),
        training_seconds=[_seconds_of(net) for net in nets],
    )


def _figures(
    log: Prepared, tests: Sequence[Predictions], peers: Mapping[str, Sequence[Scores]]
) -> dict[str, Any]:
    truth = tests[0]
    if len(truth.watch_ms) != NUM_TEST_IMPRESSIONS:
        print(f"note: {len(truth.watch_ms)} test impressions, the protocol has 75,127")
    ours = [test.values for test in tests]
    by_seed = [measure(truth, scores) for scores in ours]
    return {
        **_means(by_seed),
        "seconds_ratio_by_tab": _mean_ratio_by_tab(log, tests),
        "interval_coverage": _coverage(tests),
        "beats_lightgbm": _beats(truth, ours, peers),
        "by_seed": by_seed,
        "peers": {
            name: _means([measure(truth, scores) for scores in of_seeds])
            for name, of_seeds in peers.items()
        },
    }


def measure(truth: Predictions, scores: Scores) -> dict[str, float]:
    """Return every metric that a system's scores allow."""
    seconds = truth.watch_ms / 1000
    found = {}
    for name, head in HEADS.items():
        if head in scores:
            found[name] = METRICS[name](truth, seconds, scores[head], slice(None))
    if "expected_seconds" in scores:
        found["seconds_ratio"] = seconds_ratio(seconds, scores["expected_seconds"])
    return found


Metric = Callable[[Predictions, np.ndarray, np.ndarray, Any], float]


def _mae(truth: Predictions, seconds: np.ndarray, score: np.ndarray, rows: Any) -> float:
    return mae(seconds[rows], score[rows])


def _xauc(truth: Predictions, seconds: np.ndarray, score: np.ndarray, rows: Any) -> float:
    return xauc(seconds[rows], score[rows]).ties_dropped


def _gauc(truth: Predictions, seconds: np.ndarray, score: np.ndarray, rows: Any) -> float:
    known = truth.completed[rows] >= 0
    users, labels = truth.user[rows][known], truth.completed[rows][known] > 0
    return gauc(users, labels, score[rows][known])


METRICS: Mapping[str, Metric] = {
    "mae_seconds": _mae,
    "xauc_median": _xauc,
    "xauc_expected": _xauc,
    "gauc_completion": _gauc,
}


def _beats(
    truth: Predictions, ours: Sequence[Scores], peers: Mapping[str, Sequence[Scores]]
) -> dict[str, Any]:
    """Compare each metric with the better of the LightGBM peers, users drawn for both at once."""
    beats: dict[str, Any] = {}
    for metric, head in HEADS.items():
        rivals = [name for name in LIGHTGBM if name in peers and head in peers[name][0]]
        if not rivals:
            continue
        sign = -1.0 if metric == "mae_seconds" else 1.0
        best = max(
            rivals,
            key=lambda name: sign * _means([measure(truth, s) for s in peers[name]])[metric],
        )
        low = _difference_low(truth, metric, head, ours, peers[best], sign)
        beats[metric] = bool(low > 0)
    return beats


def _difference_low(
    truth: Predictions,
    metric: str,
    head: str,
    ours: Sequence[Scores],
    theirs: Sequence[Scores],
    sign: float,
) -> float:
    """Return the lower end of the interval of the advantage; positive is better for us."""
    seconds = truth.watch_ms / 1000
    rng = np.random.default_rng(0)

    def advantage(rows: np.ndarray) -> float:
        seed = rng.integers(len(ours))
        pair = (ours[seed][head], theirs[seed % len(theirs)][head])
        first, second = (METRICS[metric](truth, seconds, score, rows) for score in pair)
        return sign * (first - second)

    # A user drawn twice is one user of twice the rows, whose AUC is the same.
    interval = statistic_interval(advantage, truth.user, rounds=BOOTSTRAP_ROUNDS, seed=1)
    return interval.low


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _mean_ratio_by_tab(log: Prepared, tests: Sequence[Predictions]) -> dict[str, float]:
    names = log.vocabularies["surface"]
    ratios = {}
    for code in np.unique(tests[0].surface).tolist():
        own = tests[0].surface == code
        if code > 0 and own.sum() >= MIN_TAB_IMPRESSIONS:
            seconds = tests[0].watch_ms[own] / 1000
            predicted = [test.values["expected_seconds"][own] for test in tests]
            name = names.ids(np.array([code - 1]))[0]
            ratios[name] = float(np.mean([seconds_ratio(seconds, each) for each in predicted]))
    return ratios


def _coverage(tests: Sequence[Predictions]) -> float:
    """Return how many watch times lie in the 80 % interval of the curve."""
    seconds = tests[0].watch_ms / 1000
    inside = [
        (test.values["low_seconds"] <= seconds) & (seconds <= test.values["high_seconds"])
        for test in tests
    ]
    return float(np.mean(inside))


def _impressions_per_second(settings: RecsysSettings, prepared: Path) -> float:
    """Train the net in batches of 4,096 and return the rate of the second epoch, compiled by then.

    Steps alone: batches are made from the mapped features in the same time.
    """
    training = settings.ranking.training.model_copy(update={"batch_size": 4096, "max_epochs": 2})
    ranking = settings.ranking.model_copy(update={"training": training, "refit": False})
    with tempfile.TemporaryDirectory() as out:
        train_ranking.main(settings.model_copy(update={"ranking": ranking}), prepared, Path(out))
        curves = json.loads((Path(out) / "curves.json").read_text())
    return float(curves["epochs"][-1]["examples_per_second"])


def _fit_peers(
    settings: RecsysSettings, log: Prepared, net: Path, seeds: Sequence[int], names: Sequence[str]
) -> dict[str, list[Scores]]:
    """Fit the peers on the flat features of our rows, once for each seed."""
    rows = [_peer_rows(settings, log, net, split) for split in (TRAINING, VALIDATION, TEST)]
    scores: dict[str, list[Scores]] = {
        "constant": [_constant(rows)],
        "item_mean": [_item_mean(log, settings, net, rows)],
    }
    for name in names:
        for seed in seeds:
            print(f"{name}, seed {seed}", file=sys.stderr)
            scores.setdefault(name, []).append(PEERS[name](*rows, seed=seed))
    return scores


def _peer_rows(settings: RecsysSettings, log: Prepared, net: Path, split: int) -> PeerRows:
    users = ranking_predictions(settings.ranking, log, net, split).user
    return PeerRows(feature_matrix(settings.ranking, log, net, split), users)


def _constant(rows: Sequence[PeerRows]) -> Scores:
    seconds, number = rows[0].watch_seconds, len(rows[-1])
    return {
        "expected_seconds": np.full(number, seconds.mean()),
        "median_seconds": np.full(number, np.median(seconds)),
        "completion": np.zeros(number),
    }


def _item_mean(
    log: Prepared, settings: RecsysSettings, net: Path, rows: Sequence[PeerRows]
) -> Scores:
    """Return the mean of each item's training impressions."""
    training, test = (
        ranking_predictions(settings.ranking, log, net, split) for split in (TRAINING, TEST)
    )
    known = training.completed >= 0
    of_seconds = item_means(training.item, training.watch_ms / 1000, len(log.catalogue))
    of_completion = item_means(training.item[known], training.completed[known], len(log.catalogue))
    seconds = of_seconds[test.item]
    completion = of_completion[test.item]
    return {"expected_seconds": seconds, "median_seconds": seconds, "completion": completion}


def prepare_once(settings: RecsysSettings, place: Path) -> tuple[Prepared, Path]:
    """Prepare the log below a directory, unless it is there already."""
    target = place / f"prepared-{hash_json(settings_of('prepared', settings))[:12]}"
    if not target.exists():
        scratch = place / ".preparing"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        prepare(open_log(settings.data, settings.seed), settings, scratch)
        scratch.rename(target)
    return load_prepared(target), target


def train_once(
    settings: RecsysSettings, prepared: Path, place: Path, seed: int, *, is_anew: bool = False
) -> Path:
    """Train a seed, or find it trained; one that was killed is taken up again."""
    settings = settings.model_copy(update={"seed": seed})
    key = hash_json([settings_of("ranking", settings), prepared.name])
    out = place / f"{key[:12]}-seed{seed}"
    if is_anew:
        shutil.rmtree(out, ignore_errors=True)
    if not (out / DONE).exists():
        out.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        train_ranking.main(settings, prepared, out)
        (out / DONE).write_text(f"{time.monotonic() - started:.1f}\n")
    return out


def _seconds_of(net: Path) -> float:
    return float((net / DONE).read_text())


def settings_of_log(data: Path | None, overrides: Sequence[str]) -> RecsysSettings:
    """Read the configuration, for the log where it lies."""
    common = [f"data.path={find_logs(data) / LOG}", "ranking.training.tensorboard=false"]
    return load_settings(CONFIG, [*common, *overrides])


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="one training of each system")
    parser.add_argument("--peers", default=",".join(PEERS), help="which to fit")
    parser.add_argument("--retrain", action="store_true", help="train our net from nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
