"""The ranking stage on the impressions of the test part, beside baselines on the same rows.

Watch seconds of every impression, clicked or not. XAUC leaves out pairs of equal watch time; GAUC
is within users, weighted by impressions, of users with both classes.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.examples import TEST, TRAINING, VALIDATION
from recsys.data.prepared import Prepared
from recsys.evaluation.intervals import mean_intervals, ratio_intervals
from recsys.evaluation.ranking import (
    calibration_table,
    gauc,
    mae,
    rmse,
    seconds_ratio,
    user_aucs,
    weighted_user_loss,
    xauc,
)
from recsys.evaluation.ranking_baselines import Objective, fit_trees, item_means
from recsys.progress import track
from recsys.ranking.calibration import SURFACE, Calibration
from recsys.ranking.predictions import (
    FeatureMatrix,
    Predictions,
    feature_matrix,
    ranking_predictions,
)
from recsys.ranking.ranker import CALIBRATION
from recsys.settings import RecsysSettings

Scores = Mapping[str, np.ndarray]
"""`expected_seconds`, `median_seconds`, `completion`: float [R] each."""
HISTOGRAM_SECONDS = np.array([0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600], np.float64)


def evaluate_ranking(
    settings: RecsysSettings, prepared: Prepared, directory: Path
) -> dict[str, Any]:
    """Return the figures of the ranking sections: `ranking`, `baselines`, `calibration`, ....

    Args:
        settings: Of the run.
        prepared: The log.
        directory: The trained ranking net.
    """
    test = ranking_predictions(settings.ranking, prepared, directory, TEST)
    seconds = test.watch_ms / 1000
    table = calibration_table(seconds, test.values["expected_seconds"])
    edges = Calibration.load(directory / CALIBRATION).duration_edges_seconds
    surfaces = _surface_names(prepared) if SURFACE in settings.ranking.user_categorical else []
    return {
        "ranking": measure(test, test.values, settings),
        "baselines": {
            name: measure(test, scores, settings) | {"wall_seconds": taken}
            for name, (scores, taken) in _baselines(settings, prepared, directory, test).items()
        },
        "calibration": {
            "predicted": table.predicted.tolist(),
            "true": table.true.tolist(),
            "counts": table.counts.tolist(),
        },
        "seconds_ratio_by": seconds_ratio_by(test, surfaces, edges),
        "watch_time": _watch_time(seconds, test.values["expected_seconds"]),
    }


def measure(test: Predictions, scores: Scores, settings: RecsysSettings) -> dict[str, Any]:
    """Return every metric of one system's scores, with intervals where users can be resampled."""
    seconds = test.watch_ms / 1000
    expected, median = scores["expected_seconds"], scores["median_seconds"]
    known = test.completed >= 0
    users, completed = test.user[known], test.completed[known] > 0
    completion = scores["completion"][known]
    pairs = xauc(seconds, expected)
    metrics: dict[str, Any] = {
        "mae_seconds": mae(seconds, median),
        "rmse_seconds": rmse(seconds, expected),
        "xauc": pairs.ties_dropped,
        "xauc_ties_correct": pairs.ties_correct,
        "xauc_ties_wrong": pairs.ties_wrong,
        "xauc_median": xauc(seconds, median).ties_dropped,
        "gauc": gauc(users, completed, completion),
        "seconds_ratio": seconds_ratio(seconds, expected),
        "weighted_user_loss": weighted_user_loss(test.user, seconds > 0, seconds, expected),
        "impressions": len(seconds),
    }
    metrics["intervals"] = _intervals(test, scores, settings)
    return {name: value for name, value in metrics.items() if value == value}


def _intervals(test: Predictions, scores: Scores, settings: RecsysSettings) -> dict[str, Any]:
    rounds, seed = settings.evaluation.bootstrap_rounds, settings.seed
    seconds = test.watch_ms / 1000
    errors = {"mae_seconds": np.abs(seconds - scores["median_seconds"])}
    found = mean_intervals(errors, test.user, rounds=rounds, seed=seed)
    sums = {"seconds_ratio": scores["expected_seconds"].astype(np.float64)}
    found |= ratio_intervals(sums, {"seconds_ratio": seconds}, test.user, rounds=rounds, seed=seed)
    known = test.completed >= 0
    aucs, weights = user_aucs(
        test.user[known], test.completed[known] > 0, scores["completion"][known]
    )
    if len(aucs):
        weight = weights.astype(np.float64)
        found |= ratio_intervals(
            {"gauc": aucs * weight},
            {"gauc": weight},
            np.arange(len(aucs)),
            rounds=rounds,
            seed=seed,
        )
    return {name: [each.low, each.high] for name, each in found.items()}


def seconds_ratio_by(
    test: Predictions, surfaces: Sequence[str], duration_edges_seconds: Sequence[float]
) -> dict[str, list[dict[str, Any]]]:
    """Return predicted over true seconds, before and after calibration, of groups of impressions.

    Args:
        test: R impressions.
        surfaces: Names by code; none where the log does not tell surfaces apart.
        duration_edges_seconds: Between the duration buckets.

    Returns:
        `surface`, `duration` and `day` (UTC), as `recsys.evaluation.report` describes them; what
        the log does not know is absent.
    """
    durations = _bucket_names(duration_edges_seconds)
    days = np.unique(test.day[~np.isnat(test.day)])
    tables = {
        "surface": _ratio_rows(test, test.surface, surfaces),
        # The unknown duration, code 0, comes last.
        "duration": _ratio_rows(test, (test.duration_bucket - 1) % len(durations), durations),
        # Unknown days are sorted behind the last.
        "day": _ratio_rows(test, np.searchsorted(days, test.day), days.astype(str).tolist()),
    }
    return {name: rows for name, rows in tables.items() if rows}


def _surface_names(prepared: Prepared) -> list[str]:
    vocabulary = prepared.vocabularies[SURFACE]
    return ["unknown", *vocabulary.ids(np.arange(len(vocabulary)))]


def _bucket_names(edges: Sequence[float]) -> list[str]:
    if not edges:
        return ["known", "unknown"]
    spelled = [f"{edge:,.1f}".removesuffix(".0") for edge in edges]
    between = [f"{low} to {high} s" for low, high in itertools.pairwise(spelled)]
    return [f"below {spelled[0]} s", *between, f"from {spelled[-1]} s", "unknown"]


def _ratio_rows(
    test: Predictions, groups: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row for each group that has impressions: int [R] groups, a name each."""
    rows = []
    for group, name in enumerate(names):
        own = groups == group
        seconds = test.watch_ms[own] / 1000
        row = {
            "name": name,
            "impressions": int(own.sum()),
            "before": seconds_ratio(seconds, test.uncalibrated_seconds[own]),
            "after": seconds_ratio(seconds, test.values["expected_seconds"][own]),
        }
        rows += [row] if row["impressions"] else []
    return rows


def _baselines(
    settings: RecsysSettings, prepared: Prepared, directory: Path, test: Predictions
) -> dict[str, tuple[Scores, float]]:
    parts = {
        split: feature_matrix(settings.ranking, prepared, directory, split)
        for split in (TRAINING, VALIDATION)
    }
    scores = {
        "constant": (_constant(parts[TRAINING], len(test.watch_ms)), 0.0),
        "item_mean": (_item_mean(parts[TRAINING], prepared, test), 0.0),
    }
    if "lightgbm" in settings.evaluation.baselines:
        started = time.monotonic()
        rows = feature_matrix(settings.ranking, prepared, directory, TEST)
        trees = _trees(parts[TRAINING], parts[VALIDATION], rows, settings)
        scores["lightgbm"] = (trees, time.monotonic() - started)
    return scores


def _constant(training: FeatureMatrix, num_rows: int) -> Scores:
    seconds = training.watch_ms / 1000
    return {
        "expected_seconds": np.full(num_rows, seconds.mean()),
        "median_seconds": np.full(num_rows, np.median(seconds)),
        "completion": np.zeros(num_rows),
    }


def _item_mean(training: FeatureMatrix, prepared: Prepared, test: Predictions) -> Scores:
    """Return the mean of each item's training impressions."""
    num_items = len(prepared.catalogue)
    rows, item = training.item, test.item
    seconds = item_means(rows, training.watch_ms / 1000, num_items)[item]
    known = training.completed >= 0
    completion = item_means(rows[known], training.completed[known], num_items)[item]
    return {"expected_seconds": seconds, "median_seconds": seconds, "completion": completion}


def _trees(
    training: FeatureMatrix,
    validation: FeatureMatrix,
    test: FeatureMatrix,
    settings: RecsysSettings,
) -> Scores:
    heads: dict[str, tuple[Objective, bool]] = {
        "expected_seconds": ("l2", False),
        "median_seconds": ("l1", False),
        "completion": ("binary", True),
    }
    scores = {}
    for name, (objective, is_completion) in track(heads.items(), "LightGBM", len(heads)):
        features, labels = _labelled(training, is_completion)
        predict = fit_trees(
            objective,
            features,
            labels,
            validation=_labelled(validation, is_completion),
            categorical=training.categorical,
            seed=settings.seed,
            refit=settings.ranking.refit,
        )
        scores[name] = predict(test.values)
    return scores


def _labelled(rows: FeatureMatrix, is_completion: bool) -> tuple[np.ndarray, np.ndarray]:
    if not is_completion:
        return rows.values, rows.watch_ms / 1000
    known = rows.completed >= 0
    return rows.values[known], rows.completed[known]


def _watch_time(true: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    edges = HISTOGRAM_SECONDS
    return {
        "edges": edges.tolist(),
        "true": np.histogram(np.minimum(true, edges[-1]), edges)[0].tolist(),
        "predicted": np.histogram(np.minimum(predicted, edges[-1]), edges)[0].tolist(),
    }
