"""Two bundles over the same log: which is better, for whom, and what it costs.

Everything goes through the `Recommender` that serves, on held-out events that neither bundle has
learned from; the first bundle is A, what is served now, the second B, what might be.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import compare_figures as figures_of
from pipelines.compare_log import PLACES, AskedEvents, asked_impressions, asked_watches, open_log
from pipelines.compare_segments import find_segments
from pipelines.compare_sides import (
    SIDES,
    Answers,
    ItemSpace,
    ask_both,
    predict_both,
    time_both,
)
from pipelines.evaluate import finite
from recsys.bundle import Bundle
from recsys.core.random import stream
from recsys.data.prepared import Prepared
from recsys.evaluation.comparison_report import write_comparison_report
from recsys.evaluation.intervals import Interval
from recsys.experiment.guardrails import Guardrail, check_guardrail, verdict
from recsys.experiment.paired import Change, SegmentChange, compare_paired_segments, compare_pairs
from recsys.recommender import Recommender
from recsys.settings import ComparisonSettings

PREDICTED = ("expected_seconds", "median_seconds")
MIN_PAIRED_USERS = 2
CAVEAT = (
    "The log shows what users did with what was shown to them then. A bundle that shows other "
    "items gets no credit for those that nobody was shown: this says which bundle foresees the "
    "log better, not what users would have done. A test on users says that."
)


def main(
    directories: Sequence[Path], log: Path, out: Path, settings: ComparisonSettings
) -> dict[str, Any]:
    """Compare two bundles; write `compare.json` and `compare.html` into `out`.

    Args:
        directories: Of bundles A and B.
        log: A prepared directory, or that of a run.
        out: Made if absent.
        settings: What is compared, and how much of it.

    Returns:
        The figures, as `recsys.evaluation.comparison_report` describes them.

    Raises:
        ArtefactError: A bundle or the log cannot be read.
        ComparisonError: The log holds out nothing that both bundles have yet to learn.
    """
    bundles = [Bundle.load(directory) for directory in directories]
    figures = finite(compare(bundles, open_log(log), settings))
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1, allow_nan=False, ensure_ascii=False)
    (out / "compare.json").write_text(text + "\n", encoding="utf-8")
    write_comparison_report(out / "compare.html", figures)
    return figures


def compare(
    bundles: Sequence[Bundle], prepared: Prepared, settings: ComparisonSettings
) -> dict[str, Any]:
    """Return all figures, as `recsys.evaluation.comparison_report` describes them."""
    rng = stream(settings.seed, "comparison")
    watches, known_watches, num_learned = asked_watches(
        prepared, bundles, max_watches=settings.max_requests, rng=rng
    )
    space = ItemSpace.of(prepared.catalogue, [bundle.catalogue for bundle in bundles])
    sides = [Recommender(bundle) for bundle in bundles]
    columns = told_columns(bundles)
    length = max(*settings.ks, *(b.settings.serving.num_candidates for b in bundles))
    requests = watches.requests(columns, num_items=length, seen_removed=settings.seen_removed)
    answers = ask_both(sides, requests, len(watches), space)
    values = figures_of.accuracy(answers, watches.column("item"), settings.ks)
    metrics = compare_pairs(
        values[0],
        values[1],
        watches.users,
        rounds=settings.bootstrap_rounds,
        seed=settings.seed,
    )
    exposure = figures_of.exposure(answers, watches, space, settings)
    exposure["latency_ms"] = _latency(sides, watches, columns, settings)
    ranking, why_not = _ranking(sides, prepared, columns, settings, rng)
    primary = f"{settings.primary}@{settings.ks[0]}"
    guardrails = _guardrails(exposure | ranking, settings)
    gain = values[1][primary] - values[0][primary]
    segments, num_small = find_segments(
        watches, known_watches, bundles, space, min_users=settings.min_segment_users
    )
    by_segment = compare_paired_segments(
        values[0][primary], values[1][primary], watches.users, segments
    )
    return {
        "verdict": verdict(primary, metrics[primary], guardrails),
        "primary": primary,
        "sides": {
            name: _side(bundle, answer)
            for name, bundle, answer in zip(SIDES, bundles, answers, strict=True)
        },
        "protocol": _protocol(watches, num_learned, space, settings),
        "requests": len(watches),
        "users": len(np.unique(watches.users)),
        "metrics": {name: _change(change) for name, change in metrics.items()},
        "exposure": {name: _change(change) for name, change in exposure.items()},
        "ranking": {name: _change(change) for name, change in ranking.items()},
        "ranking_left_out": why_not,
        "guardrails": [_guardrail(each) for each in guardrails],
        "overlap": {
            name: _bounds(each)
            for name, each in figures_of.overlap(answers, watches.users, settings).items()
        },
        "winners": figures_of.winners(gain, watches.users),
        "segments": [_segment(name, each) for name, each in by_segment.items()],
        "small_segments": num_small,
        "examples": figures_of.examples(gain, answers, watches, space, settings.num_examples),
        "off_policy": _off_policy(prepared),
        "settings": settings.model_dump(mode="json"),
    }


def told_columns(bundles: Sequence[Bundle]) -> list[str]:
    """Return the columns of events that one of the bundles takes from a request's context."""
    names = set(PLACES)
    for bundle in bundles:
        ranking = bundle.settings.ranking
        names |= {*bundle.settings.candidates.context, *ranking.user_categorical}
        names |= set(ranking.user_numeric)
    return sorted(names - {"user_id"})


def _latency(
    sides: Sequence[Recommender],
    watches: AskedEvents,
    columns: Sequence[str],
    settings: ComparisonSettings,
) -> Change:
    requests = watches.requests(
        columns, num_items=max(settings.ks), seen_removed=settings.seen_removed
    )
    step = max(1, len(watches) // settings.timed_requests)
    timed = [request for number, request in enumerate(requests) if number % step == 0]
    milliseconds = time_both(sides, timed[: settings.timed_requests])
    return figures_of.latency(milliseconds, settings)


def _ranking(
    sides: Sequence[Recommender],
    prepared: Prepared,
    columns: Sequence[str],
    settings: ComparisonSettings,
    rng: np.random.Generator,
) -> tuple[dict[str, Change], str]:
    """Compare the rankers; a reason in place of figures where they cannot be."""
    bundles = [side.bundle for side in sides]
    unranked = [name for name, bundle in zip(SIDES, bundles, strict=True) if bundle.ranker is None]
    if unranked:
        return {}, f"no ranking net in {' and '.join(unranked)}"
    asked = asked_impressions(prepared, bundles, max_impressions=settings.max_impressions, rng=rng)
    ids = prepared.catalogue.item_ids(asked.column("item"))
    requests = asked.requests(columns, num_items=1, seen_removed=False)
    predictions = predict_both(sides, requests, ids, PREDICTED)
    known = np.isfinite([side["expected_seconds"] for side in predictions]).all(axis=0)
    users = asked.users[known]
    if len(np.unique(users)) < MIN_PAIRED_USERS:
        return {}, (
            "no impressions of known watch time since both bundles were made, of items that "
            "both know"
        )
    changes = figures_of.prediction_changes(
        [{name: values[known] for name, values in side.items()} for side in predictions],
        asked.column("watch_ms")[known] / 1000,
        asked.column("is_watch")[known],
        users,
        settings,
    )
    return changes, ""


def _guardrails(changes: dict[str, Change], settings: ComparisonSettings) -> list[Guardrail]:
    return [
        check_guardrail(metric, changes[metric].lift, margin)
        for metric, margin in settings.guardrails.items()
        if metric in changes
    ]


def _off_policy(prepared: Prepared) -> str:
    has_any = any(
        "propensity" in shard.events(["propensity"]).column_names for shard in prepared.shards
    )
    if not has_any:
        return "Not estimated: the log has no propensities."
    return (
        "Not estimated: the log has propensities, but not the candidates that its policy chose "
        "from. What a bundle would have shown out of those cannot be told; with them, "
        "`recsys.off_policy` estimates it."
    )


def _side(bundle: Bundle, answers: Answers) -> dict[str, Any]:
    return {
        "bundle_id": bundle.bundle_id,
        "name": bundle.settings.name,
        "data_until": bundle.data_until,
        "items": len(bundle.catalogue),
        "trained_items": bundle.catalogue.num_trained,
        "ranked": bundle.ranker is not None,
        "degraded": answers.degraded,
    }


def _protocol(
    watches: AskedEvents, num_learned: int, space: ItemSpace, settings: ComparisonSettings
) -> list[str]:
    k = settings.ks[0]
    return [
        CAVEAT,
        f"{len(watches):,} held-out watches of {len(np.unique(watches.users)):,} users, one asked "
        f"for at a time (recall@k is then HR@k), among {len(space):,} items of the log and of "
        f"either bundle, watched items {'left out' if settings.seen_removed else 'kept'}; a "
        f"target that a bundle does not know is a miss."
        + (
            f" {num_learned:,} held-out watches before a bundle's data_until were not asked."
            if num_learned
            else ""
        ),
        "Both are asked as the server would be: by external ids, with the history known at the "
        "moment, item counters as of each bundle, the page after ranking.",
        f"Popularity, diversity, age and coverage are those of the first {k} items; latency is "
        f"that of one answer at a time, as measured on this machine.",
        f"Intervals hold 95 %, users resampled for both bundles at once, "
        f"{settings.bootstrap_rounds:,} rounds, seed {settings.seed}.",
    ]


def _change(change: Change) -> dict[str, Any]:
    return {
        SIDES[0]: change.first,
        SIDES[1]: change.second,
        "difference": _bounds(change.difference),
        "lift": _bounds(change.lift),
    }


def _guardrail(found: Guardrail) -> dict[str, Any]:
    return {**vars(found), "lift": _bounds(found.lift)}


def _segment(name: str, found: SegmentChange) -> dict[str, Any]:
    return {
        "name": name,
        "requests": found.num_queries,
        "users": found.num_users,
        SIDES[0]: found.first,
        SIDES[1]: found.second,
        "difference": _bounds(found.difference),
        "p_value": found.p_value,
        "adjusted_p_value": found.adjusted_p_value,
    }


def _bounds(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]
