"""Features of the ranking net as if a few of the user's events were all that is known of them.

Each impression becomes a user of its own, whose timeline holds the events that it may know. All
that is not of the user's past (counters, the request) stays as of the impression's moment.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields

import numpy as np

from recsys.data.examples import RankingExamples
from recsys.data.prepared import Prepared, Shard
from recsys.data.timelines import Timelines, watch_histories
from recsys.exploration.rows import PADDING, example_moments
from recsys.ranking.features import Queries, ranking_features
from recsys.ranking.items import ItemFeatures
from recsys.ranking.spec import FeatureSpec

CHUNK = 8192
"""Impressions at a time."""


@dataclass(frozen=True)
class Impressions:
    """R impressions of all shards, in the order of `recsys.exploration.rows`.

    Args:
        examples: Their features and labels; users are numbered within their shards.
        known_at: int64 [R], when the outcome was known.
        is_watch: bool [R], a positive watch.
    """

    examples: RankingExamples
    known_at: np.ndarray
    is_watch: np.ndarray


def impressions_of(prepared: Prepared, splits: Collection[int]) -> Impressions:
    """Join the ranking examples of some splits."""
    parts = [_of_shard(shard, splits) for shard in prepared.shards]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    own = {name: joined.pop(name) for name in ("known_at", "is_watch")}
    in_dicts = {
        kind: {
            name.removeprefix(f"{kind}/"): joined.pop(name)
            for name in list(joined)
            if name.startswith(f"{kind}/")
        }
        for kind in ("codes", "numeric")
    }
    return Impressions(RankingExamples(**joined, **in_dicts), **own)


def cut_features(
    impressions: Impressions,
    chosen: np.ndarray,
    context: np.ndarray,
    items: ItemFeatures,
    spec: FeatureSpec,
    num_trained: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Compute the features of impressions whose users have no other events, in chunks.

    Args:
        impressions: R of them.
        chosen: int64 [B], rows.
        context: int [B, T], the rows that each may know, -1 padding.
        items: Features by catalogue row.
        spec: The inputs of the ranking net.
        num_trained: Items with a trained row.
    """
    examples = impressions.examples
    for start in range(0, len(chosen), CHUNK):
        rows = chosen[start : start + CHUNK]
        timelines = cut_timelines(impressions, context[start : start + CHUNK])
        queries = Queries(
            user=np.arange(len(rows)),
            moment=examples.moment[rows],
            has_time=examples.has_time[rows],
            codes={name: codes[rows] for name, codes in examples.codes.items()},
            numeric={name: values[rows] for name, values in examples.numeric.items()},
            retrieval_score=examples.retrieval_score[rows, None],
            retrieval_rank=examples.retrieval_rank[rows, None],
        )
        yield ranking_features(
            queries,
            examples.item[rows, None],
            timelines,
            watch_histories(timelines, num_trained),
            items,
            examples.item_counters[rows, None],
            examples.channel_counters[rows, None],
            spec,
        )


def cut_timelines(impressions: Impressions, context: np.ndarray) -> Timelines:
    """Make a user of each context: int [B, T], rows, -1 padding."""
    examples = impressions.examples
    is_known = context != PADDING
    row, owner = context[is_known], np.nonzero(is_known)[0]
    row = row[np.lexsort((row, examples.moment[row], owner))]  # as the log has equal moments
    return Timelines(
        offsets=np.concatenate([[0], np.cumsum(is_known.sum(axis=1))]),
        item=examples.item[row],
        moment=examples.moment[row],
        outcome_moment=impressions.known_at[row],
        has_time=examples.has_time[row],
        watch_ms=examples.watch_ms[row],
        clicked=examples.clicked[row],
        is_impression=np.ones(len(row), bool),
        is_watch=impressions.is_watch[row],
    )


def _of_shard(shard: Shard, splits: Collection[int]) -> dict[str, np.ndarray]:
    examples, timelines = shard.ranking, shard.timelines
    chosen = np.isin(examples.split, list(splits))
    arrays: dict[str, np.ndarray] = {}
    for field in fields(examples):
        value = getattr(examples, field.name)
        if isinstance(value, dict):
            arrays |= {f"{field.name}/{name}": values[chosen] for name, values in value.items()}
        else:
            arrays[field.name] = value[chosen]
    is_example = timelines.is_impression & (timelines.watch_ms >= 0) & (timelines.item >= 0)
    arrays["known_at"] = example_moments(shard, splits)[1]
    arrays["is_watch"] = timelines.is_watch[is_example][chosen]
    return arrays
