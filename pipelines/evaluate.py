"""Measure a bundle on the test part of its log, beside baselines; write JSON and an HTML report.

Everything goes through the `Recommender` that serves. The figures lie outside the bundle, keyed by
its id.
"""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluate_candidates import (
    baseline_lists,
    candidate_lists,
    measure_lists,
    recall_by_source,
)
from pipelines.evaluate_exploration import evaluate_exploration
from pipelines.evaluate_ranking import evaluate_ranking
from pipelines.held_out import HeldOut, held_out_watches
from pipelines.paths import RunPaths
from recsys.bundle import Bundle
from recsys.core.random import stream
from recsys.data.examples import TEST
from recsys.data.prepared import Prepared, load_prepared
from recsys.evaluation.report import write_report
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from recsys.settings import RecsysSettings

NUM_SERVED = 500
"""Test requests that are also answered whole, both stages."""
NUM_SAMPLES = 5
DAY_MICROSECONDS = 86_400_000_000
NUM_POPULARITY_POINTS = 200


def main(settings: RecsysSettings, paths: RunPaths, out: Path) -> None:
    """Write `metrics.json` into `out`, and `report.html` beside the steps' directories.

    Args:
        settings: The configuration.
        paths: Where the steps lie.
        out: Directory to write into.
    """
    figures = evaluate(settings, paths)
    text = json.dumps(finite(figures), indent=1, allow_nan=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    write_report(paths.report, figures)


def evaluate(settings: RecsysSettings, paths: RunPaths) -> dict[str, Any]:
    """Return all figures, as `recsys.evaluation.report` describes them."""
    prepared = load_prepared(paths.prepared)
    bundle = Bundle.load(paths.bundle)
    recommender = Recommender(bundle)
    held_out = held_out_watches(
        prepared,
        TEST,
        max_watches=settings.evaluation.max_users,
        rng=stream(settings.seed, "held_out"),
    )
    figures: dict[str, Any] = {
        "name": settings.name,
        "bundle_id": bundle.bundle_id,
        "run": _run(settings, prepared, len(held_out)),
        "data": _data(prepared),
        "training": _curves(paths),
        "index": json.loads((paths.index / "recall.json").read_text()),
        "baselines": {},
    }
    if len(held_out):
        figures |= _candidate_figures(recommender, held_out, settings)
    if bundle.ranker is not None:
        ranking = evaluate_ranking(settings, prepared, paths.ranking)
        figures |= {**ranking, "baselines": figures["baselines"] | ranking["baselines"]}
        if settings.exploration.enabled:
            coverage = evaluate_exploration(settings, prepared, paths.exploration)
            figures["exploration"] = {"coverage": coverage}
    return figures


def _candidate_figures(
    recommender: Recommender, held_out: HeldOut, settings: RecsysSettings
) -> dict[str, Any]:
    evaluation, seed = settings.evaluation, settings.seed
    vectors = np.asarray(recommender.bundle.item_vectors)
    k = max(evaluation.ks)

    def measured(lists: np.ndarray) -> dict[str, Any]:
        return measure_lists(lists, held_out, held_out.prepared, vectors, evaluation, seed)

    ours = candidate_lists(recommender, held_out, k, seen_removed=evaluation.seen_filtered)
    baselines = {
        name: measured(lists) | {"wall_seconds": seconds}
        for name, (lists, seconds) in baseline_lists(held_out, evaluation, seed).items()
    }
    requests = list(islice(held_out.requests(seen_removed=evaluation.seen_filtered), NUM_SERVED))
    answers = recommender.recommend(requests)
    return {
        "candidates": measured(ours.lists) | {"queries": len(held_out)},
        "sources": recall_by_source(ours),
        "baselines": baselines,
        "serving": _serving(answers),
        "samples": _samples(recommender, held_out, requests, answers),
    }


def _run(settings: RecsysSettings, prepared: Prepared, num_queries: int) -> dict[str, Any]:
    statistics = prepared.manifest["statistics"]
    shown = ("events", "users", "items", "trained_items", "watches", "ranking_examples")
    evaluation = settings.evaluation
    return {
        "settings": settings.model_dump(mode="json"),
        "data": {name: statistics[name] for name in shown}
        | {f"{name} events": count for name, count in statistics["events_by_split"].items()},
        "protocol": [
            f"Candidates: {num_queries:,} held-out watches of the test part"
            + (f" (a sample of at most {evaluation.max_users:,})" if evaluation.max_users else "")
            + f", full ranking over {prepared.catalogue.num_trained:,} trained items, watched "
            + ("items left out" if evaluation.seen_filtered else "items kept")
            + "; items unseen in training are misses; ties go to the smaller row.",
            "The nets learn from the training part and stop by the validation part; baselines "
            "are fitted on both. Histories are known up to each request.",
            f"Seed {settings.seed}; intervals by user bootstrap, "
            f"{evaluation.bootstrap_rounds} rounds.",
        ],
    }


def _data(prepared: Prepared) -> dict[str, Any]:
    timelines = [shard.timelines for shard in prepared.shards]
    timed = np.concatenate([each.moment[each.has_time] for each in timelines])
    watch_ms = np.concatenate([each.watch_ms[each.watch_ms >= 0] for each in timelines])
    counts = np.sort(np.asarray(prepared.catalogue.watch_counts))[::-1]
    ranks = np.unique(np.geomspace(1, max(len(counts), 1), NUM_POPULARITY_POINTS).astype(int))
    data: dict[str, Any] = {
        "popularity": {"rank": ranks.tolist(), "watches": counts[ranks - 1].tolist()}
    }
    if len(timed):
        days, numbers = np.unique(timed // DAY_MICROSECONDS, return_counts=True)
        dates = [str(np.datetime64(int(day), "D")) for day in days]
        data["events_by_day"] = {"days": dates, "counts": {"events": numbers.tolist()}}
    if len(watch_ms):
        top = np.quantile(watch_ms / 1000, 0.99)
        histogram, edges = np.histogram(np.minimum(watch_ms / 1000, top), 40)
        data["watch_seconds"] = {"edges": edges.tolist(), "counts": histogram.tolist()}
    return data


def _curves(paths: RunPaths) -> dict[str, Any]:
    stages = {
        "candidates": paths.candidates,
        "ranking": paths.ranking,
        "exploration": paths.exploration,
    }
    files = {stage: directory / "curves.json" for stage, directory in stages.items()}
    return {stage: json.loads(file.read_text()) for stage, file in files.items() if file.exists()}


def _serving(answers: list[Recommendation]) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    degraded: Counter[str] = Counter()
    for answer in answers:
        dropped.update(answer.dropped)
        degraded.update(answer.degraded_stages)
    seconds = answers[0].stage_seconds if answers else {}
    return {
        "requests": len(answers),
        "dropped": dict(dropped),
        "degraded": dict(degraded),
        "milliseconds": {
            stage: round(1000 * value / len(answers), 3) for stage, value in seconds.items()
        },
    }


def _samples(
    recommender: Recommender,
    held_out: HeldOut,
    requests: list[Request],
    answers: list[Recommendation],
) -> list[dict[str, Any]]:
    catalogue = recommender.bundle.catalogue
    ids = catalogue.table["item_id"].to_pylist()
    has_title = "title" in catalogue.table.column_names
    titles = catalogue.table["title"].to_pylist() if has_title else ids
    name_of = {item: title or item for item, title in zip(ids, titles, strict=True)}
    step = max(1, len(requests) // NUM_SAMPLES)
    samples = []
    for position in range(0, len(requests), step)[:NUM_SAMPLES]:
        request, answer = requests[position], answers[position]
        events = request.user.as_of(request.now).events
        history = [item.decode() for item in events.item_id[-5:].tolist()]
        samples.append(
            {
                "user_id": request.user.user_id,
                "history": [name_of.get(item, item) for item in history],
                "watched_next": titles[held_out.targets[position]] or "",
                "recommended": [
                    {"item": name_of[item.item_id], "seconds": item.expected_watch_seconds}
                    for item in answer.items[:5]
                ],
            }
        )
    return samples


def finite(value: Any) -> Any:
    """Replace what JSON cannot say (NaN, infinity) with null."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
