"""What the training part of the log decides for the whole of it: catalogue and vocabularies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.catalogue import Catalogue
from recsys.data.columns import categories, concatenated, id_bytes, integers
from recsys.data.examples import TRAINING
from recsys.data.intake import Cuts
from recsys.data.tokens import VOCABULARY, count_tokens
from recsys.data.user_log import UserLog, column_counts
from recsys.data.vocabulary import Vocabulary
from recsys.errors import DataError
from recsys.settings import DataSettings, RecsysSettings

Counts: TypeAlias = pa.Table
"""Columns `value` and `count`; values may repeat."""


@dataclass(frozen=True)
class ShardCounts:
    """Counts of one shard of users.

    Args:
        items: `item_id`, `watches` (positive, in training), `events` (in training),
            `duration_ms` (the longest given before `data_until`, -1 none); an item a row.
        values: Column -> counts among the events of the training part.
    """

    items: pa.Table
    values: dict[str, Counts]


def count_shard(log: UserLog, settings: RecsysSettings, cuts: Cuts) -> ShardCounts:
    """Count one shard.

    Args:
        log: The shard.
        settings: Names the columns.
        cuts: Of the whole log.
    """
    training = log.split == TRAINING
    values = {}
    for name in user_columns(settings):
        category, count = column_counts(log, name, training)
        values[name] = pa.table({"value": category, "count": count})
    token, count = count_tokens(log.searches.filter(_training_searches(log, cuts))["query"])
    values[VOCABULARY] = pa.table({"value": pa.array(token, pa.string()), "count": count})
    return ShardCounts(_count_items(log, training, cuts.data_until), values)


def user_columns(settings: RecsysSettings) -> list[str]:
    """Return the categorical columns of events and users that the nets read."""
    return sorted(
        {
            *settings.candidates.context,
            *settings.ranking.user_categorical,
            *settings.ranking.bias_categorical,
        }
    )


def build_catalogue(
    items: pa.Table, shards: Sequence[pa.Table], settings: DataSettings
) -> tuple[Catalogue, np.ndarray]:
    """Order the items: trained ones by decreasing watches, then the others by id.

    Args:
        items: The items table.
        shards: `ShardCounts.items` of each.
        settings: Limits of the trained rows.

    Returns:
        The catalogue, and int64 [N], how many training events each item has.
    """
    seen = _total_items(shards)
    table, seen = _joined(items, seen)
    watches = integers(seen, "watches", 0)
    order, num_trained = _row_order(id_bytes(table["item_id"]), watches, settings)
    table = _with_durations(table, integers(seen, "duration_ms")).take(pa.array(order))
    vocabulary = Vocabulary.from_ids(table["item_id"].to_pylist())
    catalogue = Catalogue(vocabulary, table.combine_chunks(), watches[order], num_trained)
    return catalogue, integers(seen, "events", 0)[order]


def build_vocabularies(
    shards: Sequence[dict[str, Counts]],
    catalogue: Catalogue,
    item_events: np.ndarray,
    settings: RecsysSettings,
) -> dict[str, Vocabulary]:
    """Number the categories of every configured column by decreasing frequency.

    A column that both users and items have (`language`) is one space of ids, counted together.

    Args:
        shards: `ShardCounts.values` of each.
        catalogue: The items.
        item_events: int64 [N], training events of each item.
        settings: Names the columns.
    """
    counts: dict[str, list[Counts]] = {}
    for shard in shards:
        for name, table in shard.items():
            counts.setdefault(name, []).append(table)
    for name in settings.ranking.item_categorical:
        # Items have their own vocabulary, the catalogue.
        if name != "item_id":
            table = _count_item_column(catalogue.table, name, item_events)
            counts.setdefault(name, []).append(table)
    limit = settings.data.max_vocabulary
    return {name: _vocabulary(pa.concat_tables(tables), limit) for name, tables in counts.items()}


def item_categories(items: pa.Table, name: str) -> tuple[np.ndarray, pa.DictionaryArray]:
    """Return the categories of a column of the items; a list column gives several an item.

    Returns:
        int64 [n], rows of the table, and their categories [n].

    Raises:
        DataError: The items have no such column.
    """
    if name not in items.column_names:
        raise DataError(
            f"ranking.item_categorical: no column {name!r} among the items, found "
            f"{items.column_names}; name one of these, or leave it out"
        )
    column = items[name].combine_chunks()
    if not pa.types.is_list(column.type):
        return np.arange(len(items)), categories(items[name])
    row = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    return row.astype(np.int64), categories(pc.list_flatten(column))


def _count_item_column(items: pa.Table, name: str, item_events: np.ndarray) -> Counts:
    row, spelled = item_categories(items, name)
    size = len(spelled.dictionary)
    position = spelled.indices.fill_null(size).to_numpy(zero_copy_only=False)
    count = np.bincount(position, item_events[row], size + 1)[:-1].astype(np.int64)
    return pa.table({"value": spelled.dictionary, "count": count})


def _vocabulary(counts: Counts, max_size: int) -> Vocabulary:
    total = counts.group_by("value").aggregate([("count", "sum")])
    value, count = total["value"].combine_chunks(), total["count_sum"].combine_chunks()
    return Vocabulary.from_counts(value, count, max_size=max_size)


def _count_items(log: UserLog, training: np.ndarray, data_until: int) -> pa.Table:
    encoded = log.events["item_id"].combine_chunks().dictionary_encode()
    position = encoded.indices.to_numpy(zero_copy_only=False)
    size = len(encoded.dictionary)
    early = log.moments.event < data_until
    own = np.where(early, integers(log.events, "duration_ms"), -1)
    longest = np.full(size, -1, np.int64)
    np.maximum.at(longest, position, own)
    return pa.table(
        {
            "item_id": encoded.dictionary,
            "watches": np.bincount(position[training & log.is_watch], minlength=size),
            "events": np.bincount(position[training], minlength=size),
            "duration_ms": longest,
        }
    )


def _training_searches(log: UserLog, cuts: Cuts) -> pa.Array:
    """Mark the searches before all that is held out of their user: bool [S]."""
    held_out = log.split != TRAINING
    first = np.full(len(log.user_ids), cuts.training_until)
    np.minimum.at(first, log.user_of_event()[held_out], log.moments.event[held_out])
    return pa.array(integers(log.searches, "event_time") < first[log.user_of_search()])


def _total_items(shards: Sequence[pa.Table]) -> pa.Table:
    """Add up the shards' items: an item a row, ordered by id."""
    totals = [("watches", "sum"), ("events", "sum"), ("duration_ms", "max")]
    table = pa.concat_tables(shards).group_by("item_id", use_threads=False).aggregate(totals)
    return table.rename_columns(["item_id", *(name for name, _ in totals)])


def _joined(items: pa.Table, seen: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return both tables with a row for each item of either, in one order."""
    known = Vocabulary.from_ids(items["item_id"].to_pylist())
    counted = Vocabulary.from_ids(seen["item_id"].to_pylist())
    new = seen["item_id"].filter(pa.array(known.rows(seen["item_id"]) < 0))
    table = concatenated([items, pa.table({"item_id": new})])
    row = counted.rows(table["item_id"])
    return table, seen.take(pa.array(row, mask=row < 0))


def _row_order(
    ids: np.ndarray, watches: np.ndarray, settings: DataSettings
) -> tuple[np.ndarray, int]:
    """Return the items in row order, int64 [N], and how many of them are trained."""
    by_watches = np.lexsort((ids, -watches))
    frequent = watches[by_watches] >= settings.min_item_watches
    trained = by_watches[frequent][: settings.max_items]
    is_other = np.ones(len(ids), bool)
    is_other[trained] = False
    others = np.flatnonzero(is_other)
    return np.concatenate([trained, others[np.argsort(ids[others])]]), len(trained)


def _with_durations(items: pa.Table, seen: np.ndarray) -> pa.Table:
    """Give items without a duration the longest that an event gave."""
    own = integers(items, "duration_ms")
    duration = np.where(own > 0, own, seen)
    column = pa.array(duration, mask=duration <= 0)
    if "duration_ms" in items.column_names:
        return items.set_column(items.column_names.index("duration_ms"), "duration_ms", column)
    return items.append_column("duration_ms", column)
