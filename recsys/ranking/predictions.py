"""What a trained ranking net says of held-out impressions, and their features as one matrix."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.data.examples import RankingExamples
from recsys.data.prepared import Prepared
from recsys.ranking.features import DAY
from recsys.ranking.items import ItemFeatures
from recsys.ranking.ranker import SPEC, Ranker
from recsys.ranking.rows import RankingRows, rows_by_shard
from recsys.ranking.spec import FeatureSpec, model_inputs
from recsys.settings import RankingSettings

CHUNK = 8192
"""Impressions scored at a time."""


@dataclass(frozen=True)
class Predictions:
    """R impressions of one split, with what the net says of them.

    Args:
        values: float32 [R] by name, as `Ranker.score` gives them.
        uncalibrated_seconds: float32 [R], the expected ones without their factors.
        watch_ms: int64 [R]; `duration_ms`: int64 [R], -1 unknown.
        completed, clicked, liked: int8 [R], -1 unknown.
        user: int32 [R], numbered through all shards; `item`: int32 [R], catalogue row.
        surface: int [R], its code, 0 unknown.
        duration_bucket: int [R], of the calibration, 0 unknown.
        day: datetime64[D] [R], UTC, NaT unknown.
    """

    values: dict[str, np.ndarray]
    uncalibrated_seconds: np.ndarray
    watch_ms: np.ndarray
    duration_ms: np.ndarray
    completed: np.ndarray
    clicked: np.ndarray
    liked: np.ndarray
    user: np.ndarray
    item: np.ndarray
    surface: np.ndarray
    duration_bucket: np.ndarray
    day: np.ndarray


_FIELDS = Predictions.__dataclass_fields__


@dataclass(frozen=True)
class FeatureMatrix:
    """The features of R impressions for a model of flat rows (trees, say).

    Args:
        values: float32 [R, F], NaN missing; codes as numbers.
        names: Of the columns.
        categorical: Columns that hold codes.
        item, watch_ms, completed: As in `Predictions`.
    """

    values: np.ndarray
    names: tuple[str, ...]
    categorical: tuple[int, ...]
    item: np.ndarray
    watch_ms: np.ndarray
    completed: np.ndarray


def ranking_predictions(
    settings: RankingSettings, prepared: Prepared, directory: Path, split: int
) -> Predictions:
    """Score the impressions of a split with the exported net.

    Args:
        settings: Those that it was trained with.
        prepared: The log.
        directory: Of the trained ranking net.
        split: A value of `RankingExamples.split`.
    """
    ranker = Ranker.load(directory)
    items = ItemFeatures.build(prepared.catalogue, prepared.vocabularies, settings)
    rows_of_shards = rows_by_shard(prepared, items, ranker.spec, {split})
    parts = [
        _predict(ranker, rows) | {"day": _days(shard.ranking, split)}
        for shard, rows in zip(prepared.shards, rows_of_shards, strict=True)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    values = {name: joined.pop(name) for name in list(joined) if name not in _FIELDS}
    return Predictions(values=values, **joined)


def feature_matrix(
    settings: RankingSettings, prepared: Prepared, directory: Path, split: int
) -> FeatureMatrix:
    """Lay the features of a split's impressions out flat; bags and sequences are left out.

    Args:
        settings, prepared, directory, split: As for `ranking_predictions`.
    """
    spec = FeatureSpec.load(directory / SPEC)
    items = ItemFeatures.build(prepared.catalogue, prepared.vocabularies, settings)
    parts = list(rows_by_shard(prepared, items, spec, {split}))
    item_id = ("item_id",) if settings.item_ids else ()
    codes = (*spec.user_categorical, *item_id, *spec.item_categorical)
    return FeatureMatrix(
        values=np.concatenate([_flat(rows, has_item_ids=settings.item_ids) for rows in parts]),
        names=(*codes, *spec.user_numeric, *spec.item_numeric),
        categorical=tuple(range(len(codes))),
        item=np.concatenate([rows.item for rows in parts]),
        watch_ms=np.concatenate([rows.watch_ms for rows in parts]),
        completed=np.concatenate([rows.completed for rows in parts]),
    )


def _predict(ranker: Ranker, rows: RankingRows) -> dict[str, np.ndarray]:
    inputs = model_inputs(rows.features)
    chunks = [
        ranker.score({name: rows.features[name][start : start + CHUNK] for name in inputs})
        for start in range(0, max(len(rows), 1), CHUNK)
    ]
    scores = {name: np.concatenate([chunk[name] for chunk in chunks])[:, 0] for name in chunks[0]}
    factors = ranker.calibration.factors_of(rows.features)[:, 0]
    surface, bucket = ranker.calibration.codes_of(rows.features)
    labels = ("watch_ms", "duration_ms", "completed", "clicked", "liked", "user", "item")
    return {
        **scores,
        **{name: getattr(rows, name) for name in labels},
        "uncalibrated_seconds": scores["expected_seconds"] / factors,
        "surface": surface,
        "duration_bucket": bucket[:, 0],
    }


def _days(examples: RankingExamples, split: int) -> np.ndarray:
    """Return the days of a split's impressions, in the order of their rows: datetime64[D] [R]."""
    own = examples.split == split
    day = (examples.moment[own] // DAY).astype("datetime64[D]")
    return np.where(examples.has_time[own], day, np.datetime64("NaT"))


def _flat(rows: RankingRows, *, has_item_ids: bool) -> np.ndarray:
    features = rows.features
    columns = (
        features["user_categorical"],
        features["candidate_item"][:, : int(has_item_ids)],
        features["candidate_categorical"][:, 0],
        features["user_numeric"],
        features["candidate_numeric"][:, 0],
    )
    return np.concatenate([values.astype(np.float32) for values in columns], axis=1)
