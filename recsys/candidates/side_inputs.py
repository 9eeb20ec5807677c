"""What the tower is told beside the history: searches, context, age, the time of the request."""

from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops

from recsys.candidates.query_time import NUM_COLUMNS as NUM_TIME_COLUMNS
from recsys.core.backends import Batch, Tensor
from recsys.core.layers.bag import masked_mean
from recsys.core.layers.embedding import Embedding
from recsys.core.layers.numeric import powers, split_missing
from recsys.settings import CandidateSettings

CENTURY_YEARS = 100.0
MINUTES_PER_YEAR = 365.0 * 24 * 60


def num_side_inputs(settings: CandidateSettings) -> int:
    """Return the columns of all that `embedded_side_inputs` yields."""
    tokens = settings.searches * settings.embedding_width
    context = len(settings.context) * settings.context_width
    times = 3 * settings.example_age + NUM_TIME_COLUMNS * settings.query_time
    times += 4 * settings.minutes_since_watch
    return tokens + context + 4 * settings.age + times


def embedded_side_inputs(
    batch: Batch,
    settings: CandidateSettings,
    token_table: Embedding | None,
    context_tables: Sequence[Embedding],
) -> Iterator[Tensor]:
    """Yield what is known beside the history: float [B, P, columns] each.

    Args:
        batch: As `recsys.candidates.model` describes it.
        settings: Which inputs.
        token_table: Of search tokens; None where they are no input.
        context_tables: In the order of `settings.context`.
    """
    if token_table is not None:
        tokens = batch["search_tokens"]
        yield masked_mean(token_table(tokens), tokens)
    for column, table in enumerate(context_tables):
        yield table(batch["context"][..., column])
    if settings.age:
        years, is_missing = split_missing(batch["age"][..., None])
        yield powers(years / CENTURY_YEARS)
        yield is_missing
    if settings.example_age:
        yield powers(batch["example_age"][..., None])
    if settings.query_time:
        yield batch["query_time"]
    if settings.minutes_since_watch:
        minutes, is_missing = split_missing(batch["minutes_since_watch"][..., None])
        share = ops.log(1 + minutes) / np.log1p(MINUTES_PER_YEAR)
        yield powers(ops.minimum(share, 1.0))
        yield is_missing
