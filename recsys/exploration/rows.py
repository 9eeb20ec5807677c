"""Impressions of known watch time, each with what its user was known to have watched by then."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recsys.data.prepared import Prepared
from recsys.exploration.features import (
    PADDING,
    RANKING_FEATURES,
    Columns,
    KnownWatches,
    Watches,
    log_seconds,
    process_inputs,
)
from recsys.ranking.items import ItemFeatures
from recsys.ranking.rows import RankingRows, map_rows
from recsys.ranking.spec import FeatureSpec


@dataclass(frozen=True)
class ExplorationRows:
    """R impressions.

    Args:
        impressions: Features and labels, [R] each.
        context: int32 [R, T], numbers of the user's known watches from the newest on, -1 padding.
        watches: What the numbers stand for, [E] each.
        items, spec: Of the features.
    """

    impressions: RankingRows
    context: np.ndarray
    watches: Watches
    items: ItemFeatures
    spec: FeatureSpec

    def __len__(self) -> int:
        """Return the number of impressions."""
        return len(self.context)

    @property
    def log_seconds(self) -> np.ndarray:
        """The outcome y = log(1 + watch seconds): float32 [R]."""
        return log_seconds(self.impressions.watch_ms)

    def context_sizes(self) -> np.ndarray:
        """Return how many watches each context has: int64 [R]."""
        return (self.context != PADDING).sum(axis=1)

    def cut(self, sizes: np.ndarray | int) -> "ExplorationRows":
        """Return the rows with the newest watches of their contexts: int [R], or one size."""
        is_kept = np.arange(self.context.shape[1]) < np.reshape(sizes, (-1, 1))
        return replace(self, context=np.where(is_kept, self.context, PADDING))

    def inputs(self, chosen: np.ndarray, context: np.ndarray) -> Columns:
        """Gather what the net is fed of B rows, each a request with one target.

        Args:
            chosen: int [B], rows.
            context: int [B, T], numbers of watches, -1 padding.
        """
        features = {name: self.impressions.features[name][chosen] for name in RANKING_FEATURES}
        return process_inputs(features, self.watches.at(context), self.items, self.spec)


def exploration_rows(
    prepared: Prepared,
    items: ItemFeatures,
    spec: FeatureSpec,
    splits: Collection[int],
    context_length: int,
    directory: Path,
) -> ExplorationRows:
    """Compute the impressions of some splits, their features into mapped files.

    Args:
        prepared: The log.
        items: Features by catalogue row.
        spec: Of the ranking net.
        splits: Values of `RankingExamples.split` to take.
        context_length: T.
        directory: Gets the files; it must outlive the rows.
    """
    rows = map_rows(prepared, items, spec, splits, directory, features=RANKING_FEATURES)
    contexts, watches = _contexts(prepared, splits, context_length)
    return ExplorationRows(rows, contexts, watches, items, spec)


def _contexts(
    prepared: Prepared, splits: Collection[int], length: int
) -> tuple[np.ndarray, Watches]:
    """Return the contexts of all shards' impressions, and the watches that they number."""
    contexts, parts, start = [], [], 0
    for shard in prepared.shards:
        taken = np.isin(shard.ranking.split, list(splits))
        known = KnownWatches(shard.timelines)
        users, moments = shard.ranking.user[taken].astype(np.int64), shard.ranking.moment[taken]
        newest = known.newest(users, moments, length)
        contexts.append(np.where(newest == PADDING, PADDING, newest + start).astype(np.int32))
        parts.append(known.watches)
        start += len(known.watches.item)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Watches.__dataclass_fields__
    }
    return np.concatenate(contexts), Watches(**joined)
