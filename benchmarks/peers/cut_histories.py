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
from recsys.exploration.features import PADDING
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
        timelines: Of all shards' users, numbered through: what contexts are of.
    """

    examples: RankingExamples
    timelines: Timelines


def impressions_of(prepared: Prepared, splits: Collection[int]) -> Impressions:
    """Join the ranking examples of some splits."""
    parts = [_of_shard(shard, splits) for shard in prepared.shards]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    in_dicts = {
        kind: {
            name.removeprefix(f"{kind}/"): joined.pop(name)
            for name in list(joined)
            if name.startswith(f"{kind}/")
        }
        for kind in ("codes", "numeric")
    }
    return Impressions(RankingExamples(**joined, **in_dicts), _joined_timelines(prepared))


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
        context: int [B, T], the events that each may know, -1 padding.
        items: Features by catalogue row.
        spec: The inputs of the ranking net.
        num_trained: Items with a trained row.
    """
    examples = impressions.examples
    for start in range(0, len(chosen), CHUNK):
        rows = chosen[start : start + CHUNK]
        timelines = cut_timelines(impressions.timelines, context[start : start + CHUNK])
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


def cut_timelines(timelines: Timelines, context: np.ndarray) -> Timelines:
    """Make a user of each context: int [B, T], numbers of events, -1 padding."""
    is_known = context != PADDING
    event, owner = context[is_known], np.nonzero(is_known)[0]
    event = event[np.lexsort((event, owner))]  # events of a user are in order of time
    columns = {
        name: values[event] for name, values in timelines.arrays().items() if name != "offsets"
    }
    return Timelines(np.concatenate([[0], np.cumsum(is_known.sum(axis=1))]), **columns)


def _joined_timelines(prepared: Prepared) -> Timelines:
    parts = [shard.timelines for shard in prepared.shards]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in parts[0].arrays()
        if name != "offsets"
    }
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Timelines(np.concatenate([[0], np.cumsum(lengths)]), **columns)


def _of_shard(shard: Shard, splits: Collection[int]) -> dict[str, np.ndarray]:
    examples = shard.ranking
    chosen = np.isin(examples.split, list(splits))
    arrays: dict[str, np.ndarray] = {}
    for field in fields(examples):
        value = getattr(examples, field.name)
        if isinstance(value, dict):
            arrays |= {f"{field.name}/{name}": values[chosen] for name, values in value.items()}
        else:
            arrays[field.name] = value[chosen]
    return arrays
