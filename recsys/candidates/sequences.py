"""Watches, search tokens and labels of all users, as the candidate net's batches need them.

The shards' arrays joined: users are numbered through all shards, and an example is an index into
the label arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recsys.candidates.feedback import Feedback
from recsys.data.as_of import AsOf
from recsys.data.examples import TRAINING, CandidateExamples
from recsys.data.timelines import WatchHistories
from recsys.settings import CandidateSettings


@dataclass(frozen=True)
class Labels:
    """Next watches, and what was known just before each.

    Args:
        user: int64 [L], index of the user among all.
        item: int32 [L], row of the watched item; -1 where it has no trained row.
        known_watches, known_tokens: int64 [L].
        context: int32 [L, C], codes in the order of the settings.
        age: float32 [L], years, NaN unknown.
        example_age: float32 [L], 0 for the newest training example to 1 for the oldest.
        moment: int64 [L]; `has_time`: bool [L], whether it is a time.
        watch_seconds, log_propensity: float32 [L], as `Feedback` has them; 0 and NaN where it is
            not asked for.
    """

    user: np.ndarray
    item: np.ndarray
    known_watches: np.ndarray
    known_tokens: np.ndarray
    context: np.ndarray
    age: np.ndarray
    example_age: np.ndarray
    moment: np.ndarray
    has_time: np.ndarray
    watch_seconds: np.ndarray
    log_propensity: np.ndarray

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.user)

    def take(self, indices: np.ndarray) -> "Labels":
        """Return some of the labels."""
        return Labels(*(getattr(self, name)[indices] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Sequences:
    """What users watched and searched, all shards together.

    Args:
        histories: Watches of U users.
        token_offsets: int64 [U + 1]; `token`: int32 [S], codes, each user's oldest search first.
    """

    histories: WatchHistories
    token_offsets: np.ndarray
    token: np.ndarray

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.histories.offsets) - 1

    def newest_tokens(self, users: np.ndarray, known: np.ndarray, length: int) -> np.ndarray:
        """Return the newest known search tokens, padded with 0: int64 [Q] twice -> [Q, length]."""
        # Tokens have the layout of watches; their moments are not needed here.
        tokens = WatchHistories(self.token_offsets, self.token, self.token)
        return tokens.newest(users, known, length)


Part = tuple[WatchHistories, CandidateExamples]
"""A shard's histories and examples."""


def join_sequences(parts: Sequence[Part]) -> Sequences:
    """Join the histories and search tokens of shards."""
    histories = WatchHistories(
        _join_offsets([part.offsets for part, _ in parts]),
        np.concatenate([part.code for part, _ in parts]),
        np.concatenate([part.moment for part, _ in parts]),
    )
    token_offsets = _join_offsets([examples.token_offsets for _, examples in parts])
    token = np.concatenate([examples.token for _, examples in parts])
    return Sequences(histories, token_offsets, token)


def join_labels(
    parts: Sequence[Part],
    settings: CandidateSettings,
    *,
    split: int,
    num_trained: int,
    targets_only: bool = False,
    feedback: Sequence[Feedback] = (),
) -> Labels:
    """Join the labels of one split.

    Args:
        parts: All shards, in the order given to `join_sequences`.
        settings: Which context columns.
        split: `TRAINING`, `VALIDATION` or `TEST`.
        num_trained: Items with a row.
        targets_only: Leave out labels that evaluation does not ask for.
        feedback: Of all labels of each shard, where it is asked for.
    """
    times = [examples.moment[_is_timed(examples)] for _, examples in parts]
    span = np.concatenate([np.zeros(0, np.int64), *times])
    joined, num_users = [], 0
    for number, (histories, examples) in enumerate(parts):
        chosen = examples.split == split
        chosen = np.flatnonzero(chosen & examples.is_target if targets_only else chosen)
        labels = _labels_of(examples, chosen, settings.context, span, num_users, num_trained)
        if feedback:
            labels = replace(
                labels,
                watch_seconds=feedback[number].watch_seconds[chosen],
                log_propensity=feedback[number].log_propensity[chosen],
            )
        joined.append(labels)
        num_users += len(histories.offsets) - 1
    names = Labels.__dataclass_fields__
    return Labels(*(np.concatenate([getattr(each, name) for each in joined]) for name in names))


def newest_labels(
    part: Part, settings: CandidateSettings, moment: int, *, has_time: bool
) -> Labels:
    """Return a label of each user of a shard, without an item, as of a moment: what they know then.

    Their context and age are those of their newest example; codes are 0 for users without any.
    """
    histories, examples = part
    users = np.arange(len(histories.offsets) - 1)
    newest = AsOf(
        examples.user.astype(np.int64), examples.moment, users, np.full_like(users, moment)
    )
    position = newest.last(np.arange(len(examples.user)), -1)
    columns = [
        np.append(examples.context[name], np.int32(0))[position] for name in settings.context
    ]
    return Labels(
        user=users,
        item=np.full(len(users), -1, np.int32),
        known_watches=histories.known_before(users, np.full_like(users, moment)),
        known_tokens=_known_tokens(examples, users, moment),
        context=np.stack(columns, axis=1) if columns else np.zeros((len(users), 0), np.int32),
        age=np.append(examples.age, np.float32(np.nan))[position],
        example_age=np.zeros(len(users), np.float32),
        moment=np.full(len(users), moment, np.int64),
        has_time=np.full(len(users), has_time),
        watch_seconds=np.zeros(len(users), np.float32),
        log_propensity=np.full(len(users), np.nan, np.float32),
    )


def _known_tokens(examples: CandidateExamples, users: np.ndarray, moment: int) -> np.ndarray:
    if len(examples.token) == 0:
        return np.zeros(len(users), np.int64)
    known = np.append(0, np.cumsum(examples.token_moment < moment))
    return known[examples.token_offsets[1:]] - known[examples.token_offsets[:-1]]


def _labels_of(
    examples: CandidateExamples,
    chosen: np.ndarray,
    context: tuple[str, ...],
    span: np.ndarray,
    first_user: int,
    num_trained: int,
) -> Labels:
    item = examples.item[chosen]
    columns = [examples.context[name][chosen] for name in context]
    return Labels(
        user=examples.user[chosen].astype(np.int64) + first_user,
        item=np.where(item < num_trained, item, -1).astype(np.int32),
        known_watches=examples.known_watches[chosen].astype(np.int64),
        known_tokens=examples.known_tokens[chosen].astype(np.int64),
        context=np.stack(columns, axis=1) if columns else np.zeros((len(chosen), 0), np.int32),
        age=examples.age[chosen],
        example_age=_example_age(examples.moment[chosen], examples.has_time[chosen], span),
        moment=examples.moment[chosen],
        has_time=examples.has_time[chosen],
        watch_seconds=np.zeros(len(chosen), np.float32),
        log_propensity=np.full(len(chosen), np.nan, np.float32),
    )


def _example_age(moment: np.ndarray, has_time: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Return the age as share of the training span; labels without a time count as oldest."""
    if len(span) == 0:
        return np.zeros(len(moment), np.float32)
    newest, oldest = int(span.max()), int(span.min())
    age = (newest - moment) / max(newest - oldest, 1)
    return np.where(has_time, np.clip(age, 0, 1), 1).astype(np.float32)


def _is_timed(examples: CandidateExamples) -> np.ndarray:
    return (examples.split == TRAINING) & examples.has_time


def _join_offsets(offsets: Sequence[np.ndarray]) -> np.ndarray:
    counts = np.concatenate([np.diff(each) for each in offsets])
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
