"""Candidate stage on Globo news clicks: the last click of each session of 13 Oct 2017 (UTC).

Asked for from the clicks before it; sessions of two clicks or more; items without a watch before
13 Oct count as misses. Hyper-parameters were chosen on the days before, each asked for after
training up to its midnight (streaming: 12 Oct; frozen: 7 to 12 Oct, `docs/decisions/0008`); here
the nets are trained anew through 12 Oct. Two columns, of the same nets:

    frozen      nothing of 13 Oct is known but the user's own clicks up to the request; what each
                item will get is a forecast of midnight
    streaming   all methods see the same clicks up to each request: counts and successors are as
                of the minute, and the net learns each slot of clicks once it has been asked for it

    python -m benchmarks.candidates_globo [--data DIR] [--seeds 0,1,2] [--retrain] [--json]

Another day: `--set split.validation_from=2017-10-12 --set split.test_from=2017-10-12 --set
split.test_until=2017-10-13`.

EASE is of the 8,000 most watched items: the matrix of all would take 12 GB. `best_peer_ratio` is
the net's figure over that of the best peer on the same figure.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates import (
    Protocol,
    Ranks,
    metrics,
    parse_arguments,
    parts_of,
    prepare_once,
    prepared_log,
    ranks_in,
    summarise,
    test_labels,
    test_queries,
    train_seed,
    trained_only,
    watches_of,
)
from benchmarks.output import print_result
from benchmarks.peers.head_ease import HeadEase
from benchmarks.peers.recent_successors import RecentSuccessors
from benchmarks.real_logs import find_logs
from pipelines.config import load_settings
from pipelines.held_out import HeldOut
from pipelines.train_candidates import crowd_of, served_crowd_of
from recsys.candidates.batches import TrainingBatches
from recsys.candidates.model import CandidateModel
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sequences import Labels, join_labels, join_sequences
from recsys.candidates.vectors import BulkTower, ValidationRanking
from recsys.core.backends import compile_step
from recsys.core.optimizers.by_name import new_optimizer
from recsys.data.examples import TEST, TRAINING
from recsys.data.prepared import Prepared
from recsys.evaluation.baselines import Covisitation, MatrixFactorization, Popularity, Watches
from recsys.settings import RecsysSettings

MICROSECONDS_PER_MINUTE = 60_000_000
SLOT_MINUTES = 10
"""In the streaming column the net learns this often."""
RECENT_MINUTES = (15, 60, 180, 1440)
PROTOCOL = Protocol(
    name="candidates_globo",
    description="Globo: last click of each session of 13 Oct UTC, refitted through 12 Oct",
    log="globo-news",
    configs={"frozen": "globo.toml", "streaming": "globo_streaming.toml"},
    rows=(302_101, 39_169, 2_590_647),
    peers={},
)
CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"

Peer = Callable[[], np.ndarray]


def main() -> None:
    """Train both columns once a seed, test, fit the peers, print."""
    started = time.monotonic()
    arguments = parse_arguments(PROTOCOL, __doc__)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    figures: dict[str, Any] = {}
    peers: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {}
    for column, config in PROTOCOL.configs.items():
        overrides = [
            f"data.path={find_logs(arguments.data) / PROTOCOL.log}",
            "split.validation_from=2017-10-13",
            "candidates.training.tensorboard=false",
            *arguments.set,
        ]
        settings = load_settings(CONFIGS / config, overrides)
        place = arguments.runs / PROTOCOL.name
        is_other_day = any(change.startswith("split.") for change in arguments.set)
        prepared = prepare_once if is_other_day else partial(prepared_log, PROTOCOL)
        log = prepared(settings, place)
        ranks, seconds[column] = [], []
        for seed in seeds:
            nets, done = train_seed(log, settings, place, seed, retrain=arguments.retrain)
            ranks.append(_ranks(column, nets.models[0], log, settings))
            seconds[column].append(done["seconds"])
        peers[column] = _peer_figures(column, log)
        found = summarise(ranks, test_labels(log, settings).user)
        best = {name: max(peer[name] for peer in peers[column].values()) for name in METRICS}
        found["best_peer_ratio"] = {name: found[name] / best[name] for name in METRICS}
        figures |= {f"{column}/{name}": value for name, value in found.items()}
    print_result(
        figures,
        as_json=arguments.json,
        started=started,
        protocol=PROTOCOL.description,
        seeds=seeds,
        training_seconds=seconds,
        peers=peers,
    )


METRICS = ("hr@10", "hr@50", "ndcg@10")


def _ranks(column: str, model: CandidateModel, log: Prepared, settings: RecsysSettings) -> Ranks:
    labels = test_labels(log, settings)
    if column == "streaming":
        return streamed_ranks(model, log, settings, labels)
    ranking = ValidationRanking(
        join_sequences(parts_of(log)),
        labels,
        settings.candidates,
        crowd=served_crowd_of(log, settings.candidates, learned_until=log.data_until),
    )
    return ranking.ranks(BulkTower(model)(ranking.inputs), model.item_vectors())


def streamed_ranks(
    model: CandidateModel, log: Prepared, settings: RecsysSettings, targets: Labels
) -> Ranks:
    """Rank targets slot after slot; each slot's watches are learned after it was ranked.

    Args:
        model: Trained on what lies before the first target; it changes.
        log: Holds the watches of the test part.
        settings: Of the net, its training and the crowd.
        targets: What is asked for.
    """
    candidates, sequences = settings.candidates, join_sequences(parts_of(log))
    crowd, bulk_tower = crowd_of(log, candidates), BulkTower(model)
    watched = join_labels(
        parts_of(log), candidates, split=TEST, num_trained=log.catalogue.num_trained
    )
    learn = _learner(model, log, settings)
    slot_us = SLOT_MINUTES * MICROSECONDS_PER_MINUTE
    ranks = np.full(len(targets), np.inf)
    for slot in range(watched.moment.min() // slot_us, watched.moment.max() // slot_us + 1):
        asked = np.flatnonzero(targets.moment // slot_us == slot)
        if len(asked):
            ranking = ValidationRanking(sequences, targets.take(asked), candidates, crowd=crowd)
            ranks[asked] = ranking.ranks(bulk_tower(ranking.inputs), model.item_vectors())
        is_new = (watched.moment // slot_us == slot) & (watched.item >= 0)
        if is_new.any():
            learn(watched.take(np.flatnonzero(is_new)), slot)
    return ranks


def _learner(
    model: CandidateModel, log: Prepared, settings: RecsysSettings
) -> Callable[[Labels, int], None]:
    """Return a function that takes one pass over new labels."""
    candidates, sequences = settings.candidates, join_sequences(parts_of(log))
    crowd = crowd_of(log, candidates)
    counts = np.asarray(log.catalogue.watch_counts[: log.catalogue.num_trained])
    sampler = NegativeSampler(candidates.negatives, counts)
    optimizer = new_optimizer(candidates.training, None)
    optimizer.build(model.trainable_variables)
    step = compile_step(model, model.softmax_loss, optimizer)

    def learn(labels: Labels, slot: int) -> None:
        batches = TrainingBatches(
            sequences, labels, candidates, sampler, crowd=crowd, seed=settings.seed
        )
        for batch in batches(slot):
            step(batch)

    return learn


def _peer_figures(column: str, log: Prepared) -> dict[str, dict[str, float]]:
    queries = test_queries(log)
    found = {}
    for name, recommend in _peers(column, log, queries).items():
        started = time.monotonic()
        found[name] = metrics(ranks_in(recommend(), queries.targets))
        found[name]["seconds"] = round(time.monotonic() - started, 1)
    return found


def _peers(column: str, log: Prepared, queries: HeldOut) -> dict[str, Peer]:
    """Return what each peer recommends, as the column lets it know.

    Factors and similarities are as of midnight in both columns: to fit them anew for every
    request would take days. What counts watches counts them up to the request when streaming.
    """
    num_items, known = log.catalogue.num_trained, watches_of(log, [TRAINING])
    histories = trained_only(Watches(*queries.histories), log)
    fitted: dict[str, Any] = {
        "popularity": lambda: Popularity.fit(known, num_items),
        "covisitation": lambda: Covisitation.fit(known, num_items),
        "ease": lambda: HeadEase.fit(known, num_items),
        "als": lambda: MatrixFactorization.fit(known, num_items, seed=0),
    }
    peers: dict[str, Peer] = {
        name: lambda fit=fit: fit().recommend(histories, 50, seen_filtered=True)
        for name, fit in fitted.items()
    }
    everything = watches_of(log, [TRAINING, TEST])
    frozen_at = log.data_until if column == "frozen" else None
    for weight, name in ((0.0, "recent_popularity"), (2.0, "recent_successors")):
        for minutes in RECENT_MINUTES:
            rule = RecentSuccessors(
                everything, num_items, minutes=minutes, weight=weight, is_frozen_at=frozen_at
            )
            peers[f"{name}_{minutes}min"] = lambda rule=rule: rule.recommend(
                histories, 50, seen_filtered=True, moments=queries.moments
            )
    return peers


if __name__ == "__main__":
    main()
