"""Impressions of known watch time, each with those that its user had left behind by then.

An impression is stored once; the context of another one is a list of row numbers. The rule of
`recsys.data.as_of`: a row is in a context strictly after its own outcome became known.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from recsys.data.as_of import AsOf
from recsys.data.prepared import Prepared, Shard
from recsys.errors import DataError
from recsys.ranking.items import ItemFeatures
from recsys.ranking.rows import RankingRows, rows_by_shard
from recsys.ranking.spec import USER_ITEM_NUMERIC, FeatureSpec

PADDING = -1
OF_ITEM = ("item", "categorical", "bags", "numeric")
REQUEST = "request"


@dataclass(frozen=True)
class ExplorationRows:
    """R impressions.

    Args:
        features: As of the impression's own moment: `item` int32 [R], `categorical` int32 [R, K],
            `bags` int32 [R, L, M], `numeric` float32 [R, G], NaN missing, and `request`
            int32 [R, A], what is known of the request apart from the user's past.
        context: int32 [R, T], rows of the user's known watches from the newest on, -1 padding.
        user: int32 [R], numbered through all shards.
        watch_ms: int64 [R].
        completed: int8 [R], -1 unknown.
        split: int8 [R].
    """

    features: dict[str, np.ndarray]
    context: np.ndarray
    user: np.ndarray
    watch_ms: np.ndarray
    completed: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        """Return the number of impressions."""
        return len(self.user)

    @property
    def log_seconds(self) -> np.ndarray:
        """The outcome y = log(1 + watch seconds): float32 [R]."""
        return np.log1p(self.watch_ms / 1000).astype(np.float32)

    def context_sizes(self) -> np.ndarray:
        """Return how many watches each context has: int64 [R]."""
        return (self.context != PADDING).sum(axis=1)

    def cut(self, sizes: np.ndarray | int) -> "ExplorationRows":
        """Return the rows with the newest watches of their contexts: int [R], or one size."""
        is_kept = np.arange(self.context.shape[1]) < np.reshape(sizes, (-1, 1))
        return replace(self, context=np.where(is_kept, self.context, PADDING))

    def inputs(self, chosen: np.ndarray, context: np.ndarray) -> dict[str, np.ndarray]:
        """Gather what the net is fed of B rows, each a request with one target.

        Args:
            chosen: int [B], rows.
            context: int [B, T], rows, -1 padding.
        """
        known = context != PADDING
        outcome = np.log1p(self.watch_ms[context] / 1000)
        completed = np.maximum(self.completed[context], 0)
        return {
            REQUEST: self.features[REQUEST][chosen],
            **{f"target_{name}": self.features[name][chosen][:, None] for name in OF_ITEM},
            **{f"context_{name}": values[context] for name, values in self.features.items()},
            "context_outcome": np.where(known, outcome, 0).astype(np.float32),
            "context_completed": np.where(known, completed, 0).astype(np.float32),
            "context_known": known.astype(np.float32),
        }


def item_numeric(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the names of the numeric inputs that say nothing of the user."""
    return tuple(name for name in spec.item_numeric if name not in USER_ITEM_NUMERIC)


def exploration_rows(
    prepared: Prepared,
    items: ItemFeatures,
    spec: FeatureSpec,
    splits: Collection[int],
    context_length: int,
) -> ExplorationRows:
    """Compute the impressions of some splits, in memory.

    Args:
        prepared: The log.
        items: Features by catalogue row.
        spec: The inputs of the ranking net, of which those of the user's past are left out.
        splits: Values of `RankingExamples.split` to take; contexts are of these too.
        context_length: T.
    """
    columns = [spec.item_numeric.index(name) for name in item_numeric(spec)]
    parts: list[dict[str, np.ndarray]] = []
    start = 0
    every = rows_by_shard(prepared, items, spec, splits)
    for shard, rows in zip(prepared.shards, every, strict=True):
        moment, known_at = example_moments(shard, splits)
        context = context_rows(rows.user, moment, known_at, context_length)
        labels = {name: getattr(rows, name) for name in ("user", "watch_ms", "completed", "split")}
        context = np.where(context == PADDING, PADDING, context + start).astype(np.int32)
        parts.append(_features(rows, columns) | labels | {"context": context})
        start += len(rows)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    features = {name: joined.pop(name) for name in (*OF_ITEM, REQUEST)}
    return ExplorationRows(features, **joined)


def context_rows(
    user: np.ndarray, moment: np.ndarray, known_at: np.ndarray, length: int
) -> np.ndarray:
    """Return each row's newest rows of the same user whose outcome was known: int64 [R, length].

    Args:
        user: int [R].
        moment: int64 [R], of the impression.
        known_at: int64 [R], when its watch time became known; the newest are so by this.
        length: Columns, from the newest on, -1 padding.
    """
    owner = user.astype(np.int64)
    count = AsOf(owner, known_at, owner, moment).counts()
    order = np.lexsort((known_at, owner))
    newest = np.searchsorted(owner[order], owner) + count - 1
    place = np.arange(length)
    is_known = place < count[:, None]
    return np.where(is_known, order[np.where(is_known, newest[:, None] - place, 0)], PADDING)


def example_moments(shard: Shard, splits: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return when the examples of some splits were, and when their outcome was known: int64 [n].

    Raises:
        DataError: The examples are not the timelines' impressions of known watch time.
    """
    examples, timelines = shard.ranking, shard.timelines
    is_example = timelines.is_impression & (timelines.watch_ms >= 0) & (timelines.item >= 0)
    if int(is_example.sum()) != len(examples.user):
        raise DataError(
            f"{shard.directory}: {len(examples.user):,} ranking examples, expected one for each of "
            f"the {int(is_example.sum()):,} impressions of known watch time: prepare the log anew"
        )
    chosen = np.isin(examples.split, list(splits))
    return examples.moment[chosen], timelines.outcome_moment[is_example][chosen]


def _features(rows: RankingRows, numeric_columns: list[int]) -> dict[str, np.ndarray]:
    found = {name: rows.features[f"candidate_{name}"][:, 0] for name in OF_ITEM}
    found["numeric"] = found["numeric"][:, numeric_columns]
    return found | {REQUEST: rows.features["user_categorical"]}
