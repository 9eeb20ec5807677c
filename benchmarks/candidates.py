"""What the benchmarks of the candidate stage share: train once a seed, keep, test, compare.

Trainings live below `--runs` (runs/benchmarks), one directory for each net, seed and hash of its
settings; a training that was stopped goes on, one that is done is tested again, `--retrain` begins
anew. Full ranking, no sampled metrics; a tie counts against the target; metrics are of lists
without the items that the user has watched, unless their name says `unfiltered`. The interval is
that of a bootstrap over users of the mean over seeds.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.output import print_result
from benchmarks.real_logs import find_logs
from pipelines.config import load_settings
from pipelines.held_out import HeldOut, held_out_watches
from pipelines.prepare import prepare
from pipelines.train_candidates import served_crowd_of, train_members, validation_ranking
from recsys.artefacts import hash_json
from recsys.candidates.sequences import Labels, Part, join_labels, join_sequences
from recsys.candidates.side_by_side import SideBySide
from recsys.candidates.vectors import ValidationRanking
from recsys.data.examples import TEST, TRAINING
from recsys.data.prepared import FORMAT, Prepared, load_prepared
from recsys.data.sources import open_log
from recsys.errors import DataError
from recsys.evaluation.baselines import (
    Baseline,
    Covisitation,
    Ease,
    MatrixFactorization,
    Popularity,
    Watches,
)
from recsys.evaluation.intervals import mean_intervals
from recsys.settings import RecsysSettings

CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"
KS = (10, 50)
BOOTSTRAP_ROUNDS = 1000

Ranks = np.ndarray
"""float64 [Q], the rank of each target from 1, infinite for a miss."""
Fit = Callable[[Watches, int], Baseline]
"""Training watches and the number of items -> a peer."""

PEERS: Mapping[str, Fit] = {
    "popularity": Popularity.fit,
    "covisitation": Covisitation.fit,
    "ease": Ease.fit,
    "als": lambda watches, num_items: MatrixFactorization.fit(watches, num_items, seed=0),
}


@dataclass(frozen=True)
class Protocol:
    """One table of results.

    Args:
        name: Of the benchmark.
        description: Rows, split, ranking, in a sentence.
        log: File or folder of the log, below the folder of the logs.
        configs: Encoder -> configuration file, the default first.
        rows: What the log must have: (users, items, events).
        peers: Name -> how it is fitted.
        published: Name -> figures of others on the same protocol, with their source.
    """

    name: str
    description: str
    log: str
    configs: Mapping[str, str]
    rows: tuple[int, int, int]
    peers: Mapping[str, Fit]
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A trained seed, tested.

    Args:
        ranks: Column of the table (`filtered`, `unfiltered`, ...) -> ranks of the test targets.
        validation: Metrics of the weights that were kept.
        seconds: That the training took, over all its starts.
        epochs: Trained.
    """

    ranks: dict[str, Ranks]
    validation: dict[str, float]
    seconds: float
    epochs: int


def main(protocol: Protocol, description: str | None) -> None:
    """Train or take up every seed, test, fit the peers, print."""
    started = time.monotonic()
    arguments = parse_arguments(protocol, description)
    settings = settings_of(protocol, arguments)
    place = arguments.runs / protocol.name
    log = prepared_log(protocol, settings, place)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    runs = [train_and_test(log, settings, place, seed, retrain=arguments.retrain) for seed in seeds]
    users = test_labels(log, settings).user
    figures = summarise([run.ranks["filtered"] for run in runs], users)
    figures |= {
        f"{name}_unfiltered": value
        for name, value in metrics(np.stack([run.ranks["unfiltered"] for run in runs])).items()
    }
    print_result(
        figures,
        as_json=arguments.json,
        started=started,
        protocol=protocol.description,
        encoder=arguments.encoder,
        config=protocol.configs[arguments.encoder],
        seeds=seeds,
        by_seed=[describe(run) for run in runs],
        training_seconds=[round(run.seconds, 1) for run in runs],
        peers=peer_figures(log, protocol.peers),
        published=dict(protocol.published),
    )


def parse_arguments(protocol: Protocol, description: str | None) -> argparse.Namespace:
    """Read the command line that all these benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    encoders = list(protocol.configs)
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--encoder", choices=encoders, default=encoders[0])
    parser.add_argument("--seeds", default="0,1,2", help="one training each")
    parser.add_argument("--retrain", action="store_true", help="train these seeds from nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


def settings_of(protocol: Protocol, arguments: argparse.Namespace) -> RecsysSettings:
    """Read the encoder's configuration."""
    overrides = [
        f"data.path={find_logs(arguments.data) / protocol.log}",
        "candidates.training.tensorboard=false",
    ]
    path = CONFIGS / protocol.configs[arguments.encoder]
    return load_settings(path, [*overrides, *arguments.set])


def prepared_log(protocol: Protocol, settings: RecsysSettings, place: Path) -> Prepared:
    """Prepare the log, and see that it has the rows of the protocol.

    Raises:
        DataError: It has not.
    """
    log = prepare_once(settings, place)
    item = np.concatenate([shard.timelines.item for shard in log.shards])
    users = sum(len(shard.user_ids) for shard in log.shards)
    found = (users, len(np.unique(item)), len(item))
    if found != protocol.rows:
        raise DataError(
            f"{settings.data.path}: expected {protocol.rows} users, items and events, got {found}"
        )
    return log


def prepare_once(settings: RecsysSettings, place: Path) -> Prepared:
    """Prepare the log of the settings below a directory, unless it is there already."""
    columns = list(settings.candidates.context)
    shaping = settings.model_dump(mode="json", include={"data", "split"})
    key = hash_json({**shaping, "of": columns, "format": FORMAT})
    target = place / f"prepared-{key[:12]}"
    if not target.exists():
        scratch = place / f".preparing-{key[:12]}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        prepare(open_log(settings.data, settings.seed), settings, scratch)
        scratch.rename(target)
    return load_prepared(target)


def train_and_test(
    log: Prepared, settings: RecsysSettings, place: Path, seed: int, *, retrain: bool
) -> Trained:
    """Train a seed, or take its training up where it stands, and rank the test targets."""
    nets, done = train_seed(log, settings, place, seed, retrain=retrain)
    ranks = {}
    for name, is_seen_filtered in (("filtered", True), ("unfiltered", False)):
        ranking = ValidationRanking(
            join_sequences(parts_of(log)),
            test_labels(log, settings),
            settings.candidates,
            is_seen_filtered=is_seen_filtered,
            crowd=served_crowd_of(log, settings.candidates, learned_until=log.data_until),
        )
        ranks[name] = ranking.ranks(nets.user_vectors(ranking.inputs), nets.item_vectors())
    return Trained(ranks, done["validation"], done["seconds"], done["epochs"])


def train_seed(
    log: Prepared, settings: RecsysSettings, place: Path, seed: int, *, retrain: bool
) -> tuple[SideBySide, dict[str, Any]]:
    """Return the trained nets of a seed, and what their training was like."""
    directories = member_directories(log, settings, place, seed)
    for directory in directories:
        if retrain:
            shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
    nets, histories = train_members(log, settings.candidates, directories, seed=seed)
    ranking = validation_ranking(log, settings.candidates, seed=seed)
    validation = {}
    if ranking is not None:
        validation = ranking.metrics(nets.user_vectors(ranking.inputs), nets.item_vectors())
    epochs = [epoch for history in histories for epoch in history.epochs]
    return nets, {
        "validation": validation,
        "seconds": sum(epoch.seconds for epoch in epochs),
        "epochs": len(epochs),
    }


def member_directories(
    log: Prepared, settings: RecsysSettings, place: Path, seed: int
) -> list[Path]:
    """Return where each net is trained: nets that two configurations share are trained once."""
    directories = []
    for number, member in enumerate(settings.candidates.each_member()):
        net = member.as_trained().model_dump(mode="json", exclude_defaults=True)
        key = hash_json({"net": net, "number": number, "data": log.manifest["data_hash"]})
        directories.append(place / f"{key[:12]}-seed{seed}")
    return directories


def test_labels(log: Prepared, settings: RecsysSettings) -> Labels:
    """Return the held-out watches of the test."""
    return join_labels(
        parts_of(log),
        settings.candidates,
        split=TEST,
        num_trained=log.catalogue.num_trained,
        targets_only=True,
    )


def parts_of(log: Prepared) -> list[Part]:
    """Return every shard's histories and examples."""
    return [(shard.histories, shard.candidates) for shard in log.shards]


def metrics(ranks: Ranks) -> dict[str, float]:
    """Return the means of the metrics: float64 [..., Q] -> name -> value."""
    return {name: float(values.mean()) for name, values in each_metric(ranks).items()}


def each_metric(ranks: Ranks) -> dict[str, np.ndarray]:
    """Return the metrics of every target: float64 [..., Q] -> name -> [..., Q]."""
    hits = {f"hr@{k}": (ranks <= k).astype(np.float64) for k in KS}
    return {**hits, "ndcg@10": np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)}


def summarise(ranks: Sequence[Ranks], users: np.ndarray) -> dict[str, Any]:
    """Return the means over seeds, the spread between them, and the intervals over users."""
    by_seed = each_metric(np.stack(ranks))  # [seeds, Q]
    over_seeds = {name: values.mean(axis=0) for name, values in by_seed.items()}
    intervals = mean_intervals(over_seeds, users, rounds=BOOTSTRAP_ROUNDS, seed=0)
    spread = {name: float(values.mean(axis=1).std()) for name, values in by_seed.items()}
    return {
        **{name: interval.value for name, interval in intervals.items()},
        "interval": {name: [each.low, each.high] for name, each in intervals.items()},
        "deviation_between_seeds": spread,
    }


def describe(run: Trained) -> dict[str, Any]:
    """Return a seed's figures as JSON."""
    validation = {f"validation_{name}": value for name, value in run.validation.items()}
    return {**metrics(run.ranks["filtered"]), **validation, "epochs": run.epochs}


def peer_figures(log: Prepared, peers: Mapping[str, Fit]) -> dict[str, dict[str, float]]:
    """Fit every peer on the training watches, as the net is, and test it on the same targets."""
    known = watches_of(log, [TRAINING])
    queries = test_queries(log)
    targets, histories = queries.targets, trained_only(Watches(*queries.histories), log)
    num_items = log.catalogue.num_trained
    figures = {}
    for name, fit in peers.items():
        started = time.monotonic()
        found = fit(known, num_items).recommend(histories, max(KS), seen_filtered=True)
        figures[name] = metrics(ranks_in(found, targets))
        figures[name]["seconds"] = round(time.monotonic() - started, 1)
    return figures


def ranks_in(lists: np.ndarray, targets: np.ndarray) -> Ranks:
    """Return where targets stand in ranked lists: int [Q, K], int [Q]."""
    is_hit = lists == targets[:, None]
    return np.where(is_hit.any(axis=1), is_hit.argmax(axis=1) + 1.0, np.inf)


def watches_of(log: Prepared, splits: Sequence[int]) -> Watches:
    """Return the watches of trained items in parts of the split, user after user, in order."""
    users, items, moments, first = [], [], [], 0
    for shard in log.shards:
        examples = shard.candidates
        is_known = np.isin(examples.split, splits) & (examples.item < log.catalogue.num_trained)
        own = np.flatnonzero(is_known)
        users.append(examples.user[own] + first)
        items.append(examples.item[own])
        moments.append(examples.moment[own])
        first += len(shard.user_ids)
    offsets = np.searchsorted(np.concatenate(users), np.arange(first + 1))
    return Watches(offsets, np.concatenate(items), np.concatenate(moments))


def trained_only(watches: Watches, log: Prepared) -> Watches:
    """Return watches without those of items that have no trained row."""
    kept = (watches.items >= 0) & (watches.items < log.catalogue.num_trained)
    before = np.concatenate([[0], np.cumsum(kept)])
    moments = None if watches.moments is None else watches.moments[kept]
    return Watches(before[watches.offsets], watches.items[kept], moments)


def test_queries(log: Prepared) -> HeldOut:
    """Return the test targets, and what each user had watched before."""
    return held_out_watches(log, TEST, max_watches=None, rng=np.random.default_rng(0))
