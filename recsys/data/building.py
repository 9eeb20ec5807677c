"""Makes timelines and examples of a shard's log, once the catalogue and vocabularies are known."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recsys.data.as_of import AsOf
from recsys.data.catalogue import Catalogue
from recsys.data.columns import categories, flags, floats, integers
from recsys.data.examples import ITEM_COUNTERS, TRAINING, CandidateExamples, RankingExamples
from recsys.data.splits import last_of_session, sessions
from recsys.data.timelines import Timelines, WatchHistories
from recsys.data.tokens import VOCABULARY, token_codes
from recsys.data.user_log import UserLog, column_codes, column_numbers, event_ages, required
from recsys.data.vocabulary import Vocabulary
from recsys.settings import CandidateSettings, RankingSettings, SplitSettings


def log_timelines(log: UserLog, catalogue: Catalogue) -> Timelines:
    """Turn a shard's events into catalogue rows."""
    return Timelines(
        offsets=log.offsets,
        item=catalogue.rows(log.events["item_id"]),
        moment=log.moments.event,
        outcome_moment=log.moments.outcome,
        has_time=log.moments.has_time,
        watch_ms=integers(log.events, "watch_ms"),
        clicked=flags(log.events, "clicked"),
        is_impression=flags(log.events, "is_impression", 1) > 0,
        is_watch=log.is_watch,
    )


@dataclass(frozen=True)
class SearchTokens:
    """Known search tokens of U users, each user's oldest first.

    Args:
        offsets: int64 [U + 1].
        code: int32 [S], never 0; `moment`: int64 [S].
    """

    offsets: np.ndarray
    code: np.ndarray
    moment: np.ndarray

    def known_before(self, users: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Return how many tokens of a user are known at a moment: int64 [Q]."""
        if len(self.code) == 0:
            return np.zeros(len(users), np.int64)
        owner = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return AsOf(owner, self.moment, users, moments).counts()


def search_tokens(log: UserLog, vocabulary: Vocabulary) -> SearchTokens:
    """Turn a shard's searches into tokens."""
    counts, code = token_codes(log.searches["query"], vocabulary)
    owner = np.repeat(log.user_of_search(), counts)
    lengths = np.bincount(owner, minlength=len(log.user_ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SearchTokens(offsets, code, np.repeat(integers(log.searches, "event_time"), counts))


def candidate_examples(
    log: UserLog,
    timelines: Timelines,
    histories: WatchHistories,
    vocabularies: dict[str, Vocabulary],
    num_trained: int,
    settings: tuple[CandidateSettings, SplitSettings],
) -> CandidateExamples:
    """Make a label of every positive watch, with what was known strictly before it.

    Args:
        log, timelines, histories: Of one shard.
        vocabularies: By column; of search tokens under their name.
        num_trained: Items with a trained row; other items are no training labels.
        settings: Of the candidate net and of the split.
    """
    candidates, split = settings
    trained = timelines.item < num_trained
    usable = (timelines.item >= 0) & (trained | (log.split != TRAINING))
    label = np.flatnonzero(timelines.is_watch & usable)
    user, moment = timelines.user_of_event()[label], timelines.moment[label]
    tokens = search_tokens(log, vocabularies[VOCABULARY])
    context = {
        name: column_codes(log, name, vocabularies[name])[label] for name in candidates.context
    }
    return CandidateExamples(
        user=user.astype(np.int32),
        item=timelines.item[label],
        known_watches=histories.known_before(user, moment).astype(np.int32),
        known_tokens=tokens.known_before(user, moment).astype(np.int32),
        moment=moment,
        has_time=timelines.has_time[label],
        split=log.split[label],
        is_target=_targets(log, timelines, split.targets)[label],
        context=context,
        age=event_ages(log)[label],
        token_offsets=tokens.offsets,
        token=tokens.code,
        token_moment=tokens.moment,
    )


def ranking_examples(
    log: UserLog,
    timelines: Timelines,
    vocabularies: dict[str, Vocabulary],
    settings: RankingSettings,
) -> tuple[RankingExamples, np.ndarray]:
    """Make an example of every impression whose watch time is known; counters are still zero.

    Its moment is that of its request: who asks for a page has seen nothing of it yet.

    Returns:
        The examples, and int64 [N], their positions in the timelines.
    """
    known = timelines.is_impression & (timelines.watch_ms >= 0) & (timelines.item >= 0)
    chosen = np.flatnonzero(known & settings.enabled)
    no_counters = np.zeros((len(chosen), len(ITEM_COUNTERS)), np.int64)
    codes = {
        name: column_codes(log, name, vocabularies[name])[chosen]
        for name in sorted({*settings.user_categorical, *settings.bias_categorical})
    }
    numeric = {
        name: (event_ages(log) if name == "age" else column_numbers(log, name))[chosen]
        for name in settings.user_numeric
    }
    examples = RankingExamples(
        user=timelines.user_of_event()[chosen].astype(np.int32),
        item=timelines.item[chosen],
        moment=request_moments(log, timelines)[chosen],
        has_time=timelines.has_time[chosen],
        watch_ms=timelines.watch_ms[chosen],
        duration_ms=np.where(log.duration_ms > 0, log.duration_ms, -1)[chosen],
        clicked=timelines.clicked[chosen],
        completed=_completed(log, timelines, settings.completion_column)[chosen],
        liked=_liked(log, settings.like_column)[chosen],
        split=log.split[chosen],
        item_counters=no_counters,
        channel_counters=no_counters,
        codes=codes,
        numeric=numeric,
        retrieval_score=floats(log.events, "candidate_score")[chosen],
        retrieval_rank=floats(log.events, "candidate_rank")[chosen],
    )
    return examples, chosen


def request_moments(log: UserLog, timelines: Timelines) -> np.ndarray:
    """Return when each event's request began, as far as the log tells requests: int64 [E].

    The first moment among a user's events of one `request_id`, the event's own where it has none.
    Otherwise the items of a page would be described as of their own moments, seconds apart: by how
    lately the item above was shown, a net would learn their positions, which no server can tell it.
    """
    request = _numbers_of(log.events, "request_id")
    known = np.flatnonzero(request >= 0)
    keys = timelines.user_of_event()[known] * (len(request) + 1) + request[known]
    _, number = np.unique(keys, return_inverse=True)
    first = np.full(len(known), np.iinfo(np.int64).max)
    np.minimum.at(first, number, timelines.moment[known])
    moments = timelines.moment.copy()
    moments[known] = first[number]
    return moments


def channel_numbers(items: pa.Table) -> np.ndarray:
    """Number the channels of the items: int64 [N], -1 where an item has none."""
    if "channel_id" not in items.column_names:
        return np.full(len(items), -1, np.int64)
    encoded = categories(items["channel_id"])
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _completed(log: UserLog, timelines: Timelines, column: str | None) -> np.ndarray:
    """Return the completion label of each event: int8 [E], -1 unknown."""
    if column is not None:
        return flags(log.events, required(log.events, column, "ranking.completion_column"))
    known = (log.duration_ms > 0) & (timelines.watch_ms >= 0)
    finished = timelines.watch_ms >= log.duration_ms
    return np.where(known, finished, -1).astype(np.int8)


def _liked(log: UserLog, column: str | None) -> np.ndarray:
    """Return the label of the like head of each event: int8 [E], -1 unknown."""
    if column is None:
        return np.full(len(log.events), -1, np.int8)
    return flags(log.events, required(log.events, column, "ranking.like_column"))


def _targets(log: UserLog, timelines: Timelines, kind: str) -> np.ndarray:
    """Mark the held-out watches that evaluation asks for: bool [E]."""
    held_out = log.split != TRAINING
    if kind == "all":
        return held_out & timelines.is_watch
    watch = np.flatnonzero(timelines.is_watch)
    of_event = sessions(
        log.offsets,
        log.moments,
        _numbers_of(log.events, "session_id"),
        _numbers_of(log.events, "request_id"),
    )
    last = np.zeros(len(held_out), bool)
    last[watch] = last_of_session(of_event[watch])
    return held_out & last


def _numbers_of(events: pa.Table, name: str) -> np.ndarray:
    """Number the distinct values of a column: int64 [E], -1 where null or absent."""
    if name not in events.column_names:
        return np.full(len(events), -1, np.int64)
    encoded = events[name].combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
