"""The embedding tables of the nets that rank: one an id space, for candidates and watches alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from recsys.core.backends import Batch, Tensor
from recsys.core.layers.bag import masked_mean
from recsys.core.layers.embedding import Embedding
from recsys.core.random import stream_seed
from recsys.ranking.spec import FeatureSpec

ITEM_TABLE = "item_id"
INITIAL_DEVIATION = 0.05
"""Of table rows. A row that few impressions trained must not speak as loudly as the counters."""


@dataclass(frozen=True)
class TableSize:
    """Rows and columns of one embedding table."""

    num_codes: int
    width: int


def table_sizes(
    spec: FeatureSpec, *, scale: float, max_width: int, has_item_ids: bool
) -> dict[str, TableSize]:
    """Return the table of each id space; its width grows with the logarithm of its rows.

    Args:
        spec: The inputs.
        scale: Width = scale x log2(rows), at least 4.
        max_width: At most this.
        has_item_ids: Whether the items have rows of their own.
    """
    spaces = spec.user_categorical | spec.item_categorical | spec.item_bags
    if has_item_ids:
        spaces |= {ITEM_TABLE: spec.num_item_codes}
    sizes = {}
    for name, num_codes in spaces.items():
        wished = round(scale * math.log2(num_codes))
        sizes[name] = TableSize(num_codes, min(max_width, max(4, wished)))
    return sizes


def new_table(num_codes: int, width: int, name: str, *, seed: int) -> Embedding:
    """Make one table; its initial values depend on the seed and its name."""
    seed = stream_seed(seed, "table", name)
    return Embedding(num_codes, width, seed=seed, deviation=INITIAL_DEVIATION, name=name)


def new_tables(sizes: Mapping[str, TableSize], *, seed: int) -> dict[str, Embedding]:
    """Make the table of each id space."""
    return {
        name: new_table(size.num_codes, size.width, name, seed=seed) for name, size in sizes.items()
    }


def embed_items(
    tables: Mapping[str, Embedding], spec: FeatureSpec, batch: Batch, prefix: str
) -> list[Tensor]:
    """Embed items of a batch: float32 [Q, C, width] of each id space that they have.

    Args:
        tables: By id space; without one of `ITEM_TABLE`, items have no rows of their own.
        spec: The inputs.
        batch: Holds `PREFIX_item` int32 [Q, C], `PREFIX_categorical` int32 [Q, C, B] and
            `PREFIX_bags` int32 [Q, C, L, M].
        prefix: Which items: `candidate`, `recent`, ...
    """
    embedded = []
    if ITEM_TABLE in tables:
        embedded.append(tables[ITEM_TABLE](batch[f"{prefix}_item"]))
    for column, name in enumerate(spec.item_categorical):
        embedded.append(tables[name](batch[f"{prefix}_categorical"][..., column]))
    for number, name in enumerate(spec.item_bags):
        codes = batch[f"{prefix}_bags"][:, :, number]
        embedded.append(masked_mean(tables[name](codes), codes))
    return embedded
