"""Examples of both stages for one shard of users, every one as of its own moment.

Sequences are stored once: a candidate example is a position in its user's watch history, a
ranking example a position in their timeline. Nothing is expanded into rows until a batch is made.
"""

from dataclasses import dataclass

import numpy as np

TRAINING, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, -1
"""Values of the `split` arrays."""

ITEM_COUNTERS = ("impressions", "outcomes", "watches", "clicks", "watch_ms")
"""Columns of every item counter array; `outcomes` counts events of known watch time."""


@dataclass(frozen=True)
class CandidateExamples:
    """Next-watch labels of U users: what was watched, and what was known just before.

    The histories they point into are the shard's `WatchHistories`.

    Args:
        user: int32 [L], index of the user in the shard.
        item: int32 [L], catalogue row of the watched item.
        known_watches: int32 [L], length of the history known at the moment.
        known_tokens: int32 [L], search tokens of the user known at the moment.
        moment: int64 [L]; `has_time`: bool [L].
        split: int8 [L], training 0, validation 1, test 2.
        is_target: bool [L], whether evaluation asks for this label.
        context: name -> int32 [L], embedding codes as of the event.
        age: float32 [L], years, NaN unknown.
        token_offsets: int64 [U + 1]; tokens of user u, oldest search first.
        token: int32 [S], search token codes (never 0); `token_moment`: int64 [S].
    """

    user: np.ndarray
    item: np.ndarray
    known_watches: np.ndarray
    known_tokens: np.ndarray
    moment: np.ndarray
    has_time: np.ndarray
    split: np.ndarray
    is_target: np.ndarray
    context: dict[str, np.ndarray]
    age: np.ndarray
    token_offsets: np.ndarray
    token: np.ndarray
    token_moment: np.ndarray


@dataclass(frozen=True)
class RankingExamples:
    """Impressions of known outcome, to be turned into features by `recsys.ranking.features`.

    Args:
        user: int32 [N], index of the user in the shard's `Timelines`.
        item: int32 [N], catalogue row.
        moment: int64 [N], when its request began; `has_time`: bool [N].
        watch_ms: int64 [N]; `duration_ms`: int64 [N], -1 unknown.
        clicked, completed, liked: int8 [N], -1 unknown.
        split: int8 [N].
        item_counters, channel_counters: int64 [N, 5] (`ITEM_COUNTERS`), as of the moment, over
            the whole log; the channel's are those of all items of the item's channel (zeros
            where it has none).
        codes: name -> int32 [N], codes of the `user_categorical` and `bias_categorical` columns as
            of the event.
        numeric: name -> float32 [N], `user_numeric` columns, NaN missing.
        retrieval_score, retrieval_rank: float32 [N], NaN where the log does not say.
    """

    user: np.ndarray
    item: np.ndarray
    moment: np.ndarray
    has_time: np.ndarray
    watch_ms: np.ndarray
    duration_ms: np.ndarray
    clicked: np.ndarray
    completed: np.ndarray
    liked: np.ndarray
    split: np.ndarray
    item_counters: np.ndarray
    channel_counters: np.ndarray
    codes: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    retrieval_score: np.ndarray
    retrieval_rank: np.ndarray
