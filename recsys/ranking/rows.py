"""Feature rows of impressions with their labels: a shard at a time, or all mapped from disk."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.examples import RankingExamples
from recsys.data.prepared import Prepared, Shard
from recsys.progress import track
from recsys.ranking.features import Queries, ranking_features
from recsys.ranking.items import ItemFeatures
from recsys.ranking.spec import FeatureSpec

UNKNOWN = -1


@dataclass(frozen=True)
class RankingRows:
    """R impressions.

    Args:
        features: Inputs of the ranking net, [R, ...] with one candidate each (C = 1).
        user: int32 [R], numbered through all shards.
        item: int32 [R], catalogue row.
        duration_ms: int64 [R], -1 unknown.
        watch_ms: int64 [R].
        completed, clicked, liked: int8 [R], -1 unknown.
        split: int8 [R].
    """

    features: dict[str, np.ndarray]
    user: np.ndarray
    item: np.ndarray
    duration_ms: np.ndarray
    watch_ms: np.ndarray
    completed: np.ndarray
    clicked: np.ndarray
    liked: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        """Return the number of impressions."""
        return len(self.user)


LABELS = (
    "user",
    "item",
    "duration_ms",
    "watch_ms",
    "completed",
    "clicked",
    "liked",
    "split",
)


def rows_by_shard(
    prepared: Prepared,
    items: ItemFeatures,
    spec: FeatureSpec,
    splits: Collection[int],
    *,
    features: Collection[str] | None = None,
) -> Iterator[RankingRows]:
    """Compute the impressions of some splits, a shard at a time.

    Args:
        prepared: The log.
        items: Features by catalogue row.
        spec: Which features.
        splits: Values of `RankingExamples.split` to take.
        features: Names of those to keep; None keeps all.
    """
    first_user = 0
    for shard in track(prepared.shards, "ranking features"):
        chosen = np.flatnonzero(np.isin(shard.ranking.split, list(splits)))
        examples = _take(shard.ranking, chosen)
        labels = {name: getattr(examples, name) for name in LABELS}
        labels["user"] = examples.user + np.int32(first_user)
        found = _features(examples, shard, items, spec)
        yield RankingRows({name: found[name] for name in features or found}, **labels)
        first_user += shard.timelines.num_users


def map_rows(
    prepared: Prepared,
    items: ItemFeatures,
    spec: FeatureSpec,
    splits: Collection[int],
    directory: Path,
    *,
    features: Collection[str] | None = None,
) -> RankingRows:
    """Compute the impressions of some splits into one mapped file an array.

    Args:
        prepared, items, spec, splits, features: As for `rows_by_shard`.
        directory: Gets the files; it must outlive the rows.
    """
    counts = [int(np.isin(shard.ranking.split, list(splits)).sum()) for shard in prepared.shards]
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for part in rows_by_shard(prepared, items, spec, splits, features=features):
        for name, values in _arrays(part).items():
            if name not in arrays:
                arrays[name] = _mapped(directory / f"{name}.npy", sum(counts), values)
            arrays[name][start : start + len(part)] = values
        start += len(part)
    labels = {name: arrays.pop(name) for name in LABELS}
    return RankingRows(arrays, **labels)


def _features(
    examples: RankingExamples, shard: Shard, items: ItemFeatures, spec: FeatureSpec
) -> dict[str, np.ndarray]:
    """Compute the features of impressions, each a query with one candidate."""
    queries = Queries(
        user=examples.user.astype(np.int64),
        moment=examples.moment,
        has_time=examples.has_time,
        codes=examples.codes,
        numeric=examples.numeric,
        retrieval_score=examples.retrieval_score[:, None],
        retrieval_rank=examples.retrieval_rank[:, None],
    )
    return ranking_features(
        queries,
        examples.item[:, None],
        shard.timelines,
        shard.histories,
        items,
        examples.item_counters[:, None],
        examples.channel_counters[:, None],
        spec,
    )


def _take(examples: RankingExamples, chosen: np.ndarray) -> RankingExamples:
    """Copy the chosen examples into memory."""
    taken: dict[str, Any] = {}
    for field in fields(examples):
        value = getattr(examples, field.name)
        if isinstance(value, dict):
            taken[field.name] = {name: values[chosen] for name, values in value.items()}
        else:
            taken[field.name] = value[chosen]
    return RankingExamples(**taken)


def _arrays(rows: RankingRows) -> dict[str, np.ndarray]:
    return rows.features | {name: getattr(rows, name) for name in LABELS}


def _mapped(path: Path, num_rows: int, like: np.ndarray) -> np.ndarray:
    """Make an array file [num_rows, ...] with the width and type of another array."""
    shape = (num_rows, *like.shape[1:])
    if 0 in shape:
        return np.zeros(shape, like.dtype)
    return np.lib.format.open_memmap(path, "w+", like.dtype, shape)
