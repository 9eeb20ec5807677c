"""How large the tables of the candidate net are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CandidateSizes:
    """Sizes of the net's tables.

    Args:
        num_items: N, trained items.
        num_tokens: Codes of the search tokens, 0 included.
        context: Codes of each context column, 0 included, in the order of the settings.
        item_features: int32 [catalogue, S], see `recsys.candidates.item_features`; None for none.
    """

    num_items: int
    num_tokens: int
    context: Mapping[str, int]
    item_features: np.ndarray | None = None
