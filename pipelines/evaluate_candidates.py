"""The candidate stage on held-out watches, through the recommender that serves, beside baselines.

Full ranking over the trained catalogue; a target that cannot be retrieved (an item unseen in
training) is a miss; ties go to the smaller catalogue row. The net's item side is frozen at
data_until, as a bundle's is; the users' histories are known up to each request.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from pipelines.held_out import HeldOut
from recsys.data.examples import TRAINING, VALIDATION
from recsys.data.prepared import Prepared
from recsys.evaluation.baselines import (
    Baseline,
    Covisitation,
    MatrixFactorization,
    Popularity,
    Watches,
)
from recsys.evaluation.intervals import mean_intervals
from recsys.evaluation.metrics import (
    Relevant,
    catalogue_coverage,
    intra_list_diversity,
    novelty,
    popularity_percentile,
    ranking_metrics,
)
from recsys.progress import progress, track
from recsys.recommender import Recommender
from recsys.retrieval import Candidates
from recsys.settings import EvaluationSettings

BATCH = 128
PADDING = -1


@dataclass(frozen=True)
class CandidateLists:
    """What the candidate stage found for Q held-out watches.

    Args:
        lists: int64 [Q, k], the first k candidates, padded with -1.
        found: Source -> bool [Q], whether it found what was watched, anywhere among its candidates.
        num_candidates: Source -> int64 [Q], how many it found.
    """

    lists: np.ndarray
    found: dict[str, np.ndarray]
    num_candidates: dict[str, np.ndarray]


def candidate_lists(
    recommender: Recommender, held_out: HeldOut, k: int, *, seen_removed: bool
) -> CandidateLists:
    """Ask the candidate stage about every held-out watch."""
    requests = held_out.requests(seen_removed=seen_removed)
    every = CandidateLists(np.full((len(held_out), k), PADDING, np.int64), {}, {})
    done = 0
    with progress("candidates of test requests", len(held_out)) as task:
        while batch := list(islice(requests, BATCH)):
            for candidates in recommender.candidates(batch):
                _note(every, done, candidates, int(held_out.targets[done]))
                done += 1
            task.advance(len(batch))
    return every


def _note(every: CandidateLists, query: int, candidates: Candidates, target: int) -> None:
    rows = candidates.rows[: every.lists.shape[1]]
    every.lists[query, : len(rows)] = rows
    num_queries = len(every.lists)
    for name, own in candidates.found_by.items():
        is_own = ~np.isnan(own)
        found = every.found.setdefault(name, np.zeros(num_queries, bool))
        found[query] = (candidates.rows[is_own] == target).any()
        counts = every.num_candidates.setdefault(name, np.zeros(num_queries, np.int64))
        counts[query] = np.count_nonzero(is_own)


def recall_by_source(lists: CandidateLists) -> list[dict[str, Any]]:
    """Return, for each source, the share of watches that it found, and that it alone found."""
    found = np.stack(list(lists.found.values()))  # [S, Q]
    is_alone = found & (found.sum(axis=0) == 1)
    return [
        {
            "name": name,
            "candidates": float(lists.num_candidates[name].mean()),
            "recall": float(found[number].mean()),
            "alone": float(is_alone[number].mean()),
        }
        for number, name in enumerate(lists.found)
    ]


def measure_lists(
    lists: np.ndarray,
    held_out: HeldOut,
    prepared: Prepared,
    vectors: np.ndarray,
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, Any]:
    """Return every metric of ranked lists, with intervals by user bootstrap.

    Args:
        lists: int64 [Q, K].
        held_out: The targets.
        prepared: Gives the popularity of items.
        vectors: float32 [num_trained, D], for the diversity of a list.
        settings: Which k, how many rounds.
        seed: Of the bootstrap.
    """
    counts = np.asarray(prepared.catalogue.watch_counts)
    values = ranking_metrics(lists, Relevant.single(held_out.targets), settings.ks)
    k = settings.ks[0]
    trained = np.where(lists < len(vectors), lists, PADDING)
    values[f"popularity_percentile@{k}"] = popularity_percentile(lists, counts, k)
    values[f"novelty_bits@{k}"] = novelty(lists, counts, k)
    values[f"diversity@{k}"] = intra_list_diversity(trained, vectors, k)
    intervals = mean_intervals(values, held_out.users, rounds=settings.bootstrap_rounds, seed=seed)
    return {
        **{name: interval.value for name, interval in intervals.items()},
        f"coverage@{k}": catalogue_coverage(lists, len(prepared.catalogue), k),
        "intervals": {name: [each.low, each.high] for name, each in intervals.items()},
    }


def baseline_lists(
    held_out: HeldOut, settings: EvaluationSettings, seed: int
) -> dict[str, tuple[np.ndarray, float]]:
    """Fit every configured baseline on what was known before the test, and ask it.

    Returns:
        Name -> lists int64 [Q, K] and seconds taken.
    """
    prepared = held_out.prepared
    histories = Watches(*held_out.histories)
    known = known_watches(prepared)
    fitters = _fitters(known, prepared, settings, seed)
    lists: dict[str, tuple[np.ndarray, float]] = {}
    for name in track([n for n in settings.baselines if n in fitters], "candidate baselines"):
        started = time.monotonic()
        fitted = fitters[name]()
        found = fitted.recommend(histories, max(settings.ks), seen_filtered=settings.seen_filtered)
        lists[name] = (found, time.monotonic() - started)
    return lists


def known_watches(prepared: Prepared) -> Watches:
    """Return the watches of the training and validation parts, user after user."""
    users, items, moments, first = [], [], [], 0
    timed = True
    for shard in prepared.shards:
        examples = shard.candidates
        own = np.flatnonzero(np.isin(examples.split, [TRAINING, VALIDATION]))
        users.append(examples.user[own] + first)
        items.append(examples.item[own])
        moments.append(examples.moment[own])
        timed &= bool(examples.has_time[own].any()) or len(own) == 0
        first += len(shard.user_ids)
    counts = np.bincount(np.concatenate(users), minlength=first)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Watches(offsets, np.concatenate(items), np.concatenate(moments) if timed else None)


def _fitters(
    known: Watches, prepared: Prepared, settings: EvaluationSettings, seed: int
) -> dict[str, Callable[[], Baseline]]:
    num_items = len(prepared.catalogue)
    fitters: dict[str, Callable[[], Baseline]] = {
        "popularity": lambda: Popularity.fit(known, num_items),
        "covisitation": lambda: Covisitation.fit(known, num_items),
        "als": lambda: MatrixFactorization.fit(known, num_items, seed=seed),
    }
    if known.moments is not None:
        fitters["recent_popularity"] = lambda: Popularity.fit_recent(
            known, num_items, hours=settings.recent_hours, until=prepared.data_until
        )
    return fitters
