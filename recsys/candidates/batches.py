"""Batches of the candidate net: sequences with some of their positions as examples.

An epoch takes at most `max_positions_per_user` random labels of each user. The labels of a long
user lie in pieces of equal length; a piece is used up before another is begun, so that few
sequences carry many examples. Sequences of similar length stand in one batch: shapes repeat, and
little is padded.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.candidates.crowd import NOBODY, Crowd
from recsys.candidates.forecast import WatchForecast
from recsys.candidates.negatives import NegativeSampler, merge_repeated
from recsys.candidates.popularity import MICROSECONDS_PER_MINUTE, RecentPopularity
from recsys.candidates.query_time import minutes_since_watch, query_time
from recsys.candidates.sequences import Labels, Sequences
from recsys.candidates.successors import Successors, count_successors
from recsys.core.random import stream
from recsys.settings import CandidateSettings, PolicyGradientSettings

SMALLEST, GROWTH = 8, 1.25
"""The first size of an axis, and from each size to the next. Doubling would give fewer shapes to
compile, but leave 40 % of the work to padding."""
SMALLEST_TIMED = 2
"""First number of positions where a row holds only the labels of an hour."""
MIN_CONCURRENT = 2048
"""Watches that count as concurrent with a batch, its own and those before it."""


@dataclass(frozen=True)
class _Plan:
    """The rows of one epoch: pieces of users, each with its chosen labels.

    Args:
        label: int64 [E], chosen labels, row after row.
        start: int64 [R + 1]; row r owns `label[start[r]:start[r + 1]]`.
        user: int64 [R].
        last: int64 [R], watches known at the newest label of the row.
        length: int64 [R], watches that the labels of the row need.
        batches: (P, rows) in the order of training.
    """

    label: np.ndarray
    start: np.ndarray
    user: np.ndarray
    last: np.ndarray
    length: np.ndarray
    batches: list[tuple[int, np.ndarray]]


class TrainingBatches:
    """Gives the batches of an epoch, a pure function of (seed, epoch).

    Args:
        sequences: Of all users.
        labels: Training labels of trained items.
        settings: Lengths and sizes.
        sampler: Of the negatives, for the sampled softmax.
        crowd: What the net is told of all users.
        seed: Where chance comes from.
    """

    def __init__(
        self,
        sequences: Sequences,
        labels: Labels,
        settings: CandidateSettings,
        sampler: NegativeSampler | None,
        *,
        crowd: Crowd = NOBODY,
        seed: int,
    ) -> None:
        self._sequences, self._settings, self._seed = sequences, settings, seed
        self._labels = labels.take(np.argsort(labels.user, kind="stable"))
        self._sampler, self._crowd = sampler, crowd
        self._piece = _pieces(self._labels, settings.max_sequence_length)
        self._is_timed = settings.by_time or crowd.popularity is not None
        if self._is_timed:
            slot = self._slots(self._labels.moment)
            self._piece = _number_pairs(self._piece, slot)
            by_time = np.argsort(self._labels.moment, kind="stable")
            self._times = self._labels.moment[by_time]
            self._items_by_time = self._labels.item[by_time]
        self._lengths = _sizes(settings.max_sequence_length + settings.lookback)
        smallest = SMALLEST_TIMED if self._is_timed else SMALLEST
        self._widths = _sizes(settings.max_positions_per_user, smallest)
        self._heights = _sizes(settings.training.batch_size * settings.max_positions_per_user)

    def __call__(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch."""
        plan = self._plan(epoch)
        rng = stream(self._seed, "negatives", epoch)
        for num_positions, rows in plan.batches:
            batch, label = self._batch(plan, num_positions, rows)
            if self._sampler is not None:
                batch |= self._negatives(batch, label, self._sampler, rng)
            yield batch

    def num_batches(self) -> int:
        """Return the number of batches in the first epoch; other epochs have about as many."""
        return len(self._plan(0).batches)

    def _plan(self, epoch: int) -> _Plan:
        rng = stream(self._seed, "positions", epoch)
        label = _choose(self._labels.user, self._piece, self._settings.max_positions_per_user, rng)
        is_first = np.diff(self._piece[label], prepend=-1) != 0
        first = np.flatnonzero(is_first)
        start = np.append(first, len(label))
        known = self._labels.known_watches[label]
        last = np.maximum.reduceat(known, first) if len(first) else known
        earliest = np.minimum.reduceat(known, first) if len(first) else known
        length = last - np.maximum(earliest - self._settings.lookback, 0)
        moment = self._labels.moment[label[first]]
        batches = self._group(np.diff(start), moment, rng)
        return _Plan(label, start, self._labels.user[label[first]], last, length, batches)

    def _group(
        self, num_labels: np.ndarray, moment: np.ndarray, rng: np.random.Generator
    ) -> list[tuple[int, np.ndarray]]:
        """Make batches of rows with about as many labels, and order them.

        The rows are random, and so is the order, unless the batches follow the time.
        """
        bucket = np.searchsorted(self._widths, num_labels)
        slot = self._slots(moment) if self._is_timed else np.zeros_like(moment)
        group = _number_pairs(slot, bucket)
        order = rng.permutation(len(group))
        order = order[np.argsort(group[order], kind="stable")]
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        batches = []
        for rows in np.split(order, starts)[1:]:
            num_positions = self._widths[bucket[rows[0]]]
            size = self._num_rows(num_positions)
            batches += [(num_positions, rows[i : i + size]) for i in range(0, len(rows), size)]
        shuffled = [batches[i] for i in rng.permutation(len(batches))]
        if self._settings.by_time:
            shuffled.sort(key=lambda batch: slot[batch[1][0]])
        return shuffled

    def _slots(self, moment: np.ndarray) -> np.ndarray:
        return moment // (self._settings.slot_minutes * MICROSECONDS_PER_MINUTE)

    def _num_rows(self, num_positions: int) -> int:
        """Return B: rows of few labels come in larger batches, so that steps have equal work."""
        settings = self._settings
        return settings.training.batch_size * settings.max_positions_per_user // num_positions

    def _batch(
        self, plan: _Plan, num_positions: int, rows: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return a batch without its negatives, and the label of each example: int64 [B, P]."""
        length = self._lengths[np.searchsorted(self._lengths, plan.length[rows].max())]
        num_rows = self._num_rows(num_positions)
        if self._is_timed:  # Slots end with batches of few rows.
            num_rows = self._heights[np.searchsorted(self._heights, len(rows))]
        user, last = _pad(plan.user[rows], num_rows), _pad(plan.last[rows], num_rows)
        begin, end = _pad(plan.start[rows], num_rows), _pad(plan.start[rows + 1], num_rows)
        position = begin[:, None] + np.arange(num_positions)  # [B, P]
        inside = position < end[:, None]
        label = plan.label[np.where(inside, position, 0)]
        dropped = last - np.minimum(last, length)  # [B], watches too old to be in the history
        known = self._labels.known_watches[label] - dropped[:, None]
        batch = {
            "history": self._sequences.histories.newest(user, last, length),
            "positions": np.where(inside, known, 0).astype(np.int32),
            "labels": np.where(inside, self._labels.item[label], 0),
            "weight": inside.astype(np.float32),
        }
        if self._settings.policy_gradient is not None:
            batch |= self._feedback(label, self._settings.policy_gradient)
        if self._settings.watch_times:
            seconds = self._sequences.histories.newest_seconds(user, last, length)
            batch["watch_seconds"] = seconds
        return batch | side_inputs(self._sequences, self._labels, label, self._settings), label

    def _feedback(
        self, label: np.ndarray, settings: PolicyGradientSettings
    ) -> dict[str, np.ndarray]:
        """Return what labels were worth, 1 on average, and how likely they were: [B, P] each."""
        seconds = self._labels.watch_seconds
        reward = seconds / seconds.mean() if settings.reward == "watch_seconds" else seconds * 0 + 1
        unknown = np.full(label.shape, np.nan, np.float32)
        is_logged = settings.logged_propensities
        return {
            "reward": reward[label].astype(np.float32),
            "log_propensity": self._labels.log_propensity[label] if is_logged else unknown,
        }

    def _negatives(
        self,
        batch: dict[str, np.ndarray],
        label: np.ndarray,
        sampler: NegativeSampler,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Return the negatives of a batch, and what the scores need to know of them."""
        is_real = batch["weight"] > 0
        real = batch["labels"][is_real]
        concurrent = None
        if self._is_timed:
            moments = self._labels.moment[label[is_real]]
            start, end = np.searchsorted(self._times, [moments.min(), moments.max() + 1])
            start = min(start, max(0, end - MIN_CONCURRENT))
            concurrent = self._items_by_time[start:end]
        items, log_expected = sampler.sample(rng, labels=real, concurrent=concurrent)
        if self._crowd.successors is not None:
            items, log_expected = merge_repeated(items, log_expected)
        found = {"negatives": items, "log_expected_counts": log_expected}
        if self._settings.logq == "standard":
            found["label_log_expected_counts"] = sampler.log_expected_counts(
                batch["labels"], concurrent
            )
        if self._settings.seen_hidden:
            found["negative_is_hidden"] = self._are_seen(items, label.ravel())
        if self._crowd.popularity is not None:
            found |= self._popularity_of(self._crowd.popularity, batch["labels"], items, label)
        if self._crowd.successors is not None:
            found |= self._successions_of(self._crowd.successors, batch["labels"], items, label)
        return found

    def _successions_of(
        self, successors: Successors, labels: np.ndarray, negatives: np.ndarray, label: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return counts of label and negatives among what followed the last watch."""
        windows, chosen = self._settings.successor_windows, label.ravel()
        num_columns = self._settings.num_successor_columns
        newest = successors.of_labels(self._sequences.histories, self._labels, chosen, max(windows))
        counts = count_successors(newest, windows)
        is_own = counts.code - 1 == labels.ravel()[counts.query]
        of_labels = np.zeros((len(chosen), num_columns), np.float32)
        of_labels[counts.query[is_own]] = counts.columns[is_own]
        place = _places(counts.code - 1, negatives)
        kept = place >= 0
        of_negatives = np.zeros((num_columns, len(chosen), len(negatives)), np.float32)
        of_negatives[:, counts.query[kept], place[kept]] = counts.columns[kept].T
        return {
            "label_successions": of_labels.reshape(*label.shape, num_columns),
            "negative_successions": of_negatives,
        }

    def _are_seen(self, negatives: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Tell which negatives are among the newest watches before labels: bool [R, M]."""
        labels, histories = self._labels, self._sequences.histories
        length = self._settings.max_sequence_length
        seen = histories.newest(labels.user[chosen], labels.known_watches[chosen], length)
        user, watch = np.nonzero(seen)
        distinct, number = np.unique(negatives, return_inverse=True)
        place = _places(seen[user, watch] - 1, distinct)
        are_seen = np.zeros((len(chosen), len(distinct)), bool)
        are_seen[user[place >= 0], place[place >= 0]] = True
        return are_seen[:, number]

    def _popularity_of(
        self,
        popularity: RecentPopularity | WatchForecast,
        labels: np.ndarray,
        negatives: np.ndarray,
        label: np.ndarray,
    ) -> dict[str, np.ndarray]:
        own = popularity.refreshes(self._labels.moment[label])  # [B, P]
        refreshes, number = np.unique(own, return_inverse=True)
        counts = np.stack([popularity.columns(refresh) for refresh in refreshes.tolist()])
        of_negatives = counts[:, negatives]  # [G, M, K]
        # Few sizes of this axis, or TensorFlow would trace every batch anew.
        size = 1 << int(np.ceil(np.log2(len(refreshes))))
        number = number.reshape(label.shape)
        return {
            "popularity_step": number.astype(np.int32),
            "label_popularity": counts[number, labels],
            "negative_popularity": np.resize(of_negatives, (size, *of_negatives.shape[1:])),
        }


def side_inputs(
    sequences: Sequences,
    labels: Labels,
    index: np.ndarray,
    settings: CandidateSettings,
) -> dict[str, np.ndarray]:
    """Return the inputs beside the history, those that the settings use.

    Args:
        sequences: Of all users.
        labels: The labels that `index` points into.
        index: int64 [...].
        settings: Which inputs.

    Returns:
        Arrays [...] or [..., columns] as `recsys.candidates.model` describes them.
    """
    inputs: dict[str, np.ndarray] = {}
    if settings.searches:
        known = labels.known_tokens[index].ravel()
        users, length = labels.user[index].ravel(), settings.max_search_tokens
        tokens = sequences.newest_tokens(users, known, length)
        inputs["search_tokens"] = tokens.reshape(*index.shape, length)
    if settings.context:
        inputs["context"] = labels.context[index]
    if settings.age:
        inputs["age"] = labels.age[index]
    if settings.example_age:
        inputs["example_age"] = labels.example_age[index]
    if settings.query_time:
        inputs["query_time"] = query_time(labels.moment[index], labels.has_time[index])
    if settings.minutes_since_watch:
        inputs["minutes_since_watch"] = minutes_since_watch(
            sequences.histories,
            labels.user[index],
            labels.known_watches[index],
            labels.moment[index],
            labels.has_time[index],
        )
    return inputs


def _places(items: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return where items stand among others, the last place of repeated ones, or -1: int64 [n]."""
    place = np.full(max(among.max(initial=0), items.max(initial=0)) + 1, -1)
    place[among] = np.arange(len(among))
    return place[items]


def _pieces(labels: Labels, length: int) -> np.ndarray:
    """Number the pieces of at most `length` watches that labels lie in: int64 [L].

    All pieces of a user are of equal length, or a short last one would be drawn as often as a
    full one. Numbers ascend with the user.
    """
    if len(labels) == 0:
        return np.zeros(0, np.int64)
    longest = np.zeros(labels.user[-1] + 1, np.int64)
    np.maximum.at(longest, labels.user, labels.known_watches)
    num_pieces = longest // length + 1
    first_piece = np.cumsum(num_pieces) - num_pieces
    within = labels.known_watches * num_pieces[labels.user] // (longest[labels.user] + 1)
    return first_piece[labels.user] + within


def _number_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number the distinct pairs, ascending: int64 [L] twice -> int64 [L]."""
    second = second - second.min(initial=0)
    return np.unique(first * (second.max(initial=0) + 1) + second, return_inverse=True)[1]


def _choose(
    user: np.ndarray, piece: np.ndarray, max_labels: int, rng: np.random.Generator
) -> np.ndarray:
    """Choose at most `max_labels` labels of each user, piece after random piece.

    Args:
        user: int64 [L], ascending.
        piece: int64 [L].
        max_labels: Of one user.
        rng: Where chance comes from.

    Returns:
        int64 [E], labels, those of a piece side by side.
    """
    if len(user) == 0:
        return np.zeros(0, np.int64)
    piece_order = rng.permutation(piece.max() + 1)
    order = np.lexsort((rng.random(len(user)), piece_order[piece], user))
    counts = np.bincount(user)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[rank < max_labels]


def _sizes(largest: int, smallest: int = SMALLEST) -> list[int]:
    """Return the sizes that an axis may have, ascending, up to the largest."""
    sizes, size = [], smallest
    while size < largest:
        sizes.append(size)
        size = math.ceil(size * GROWTH)
    return [*sizes, largest]


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    """Fill up with zeros: a row without watches and without labels."""
    return np.concatenate([values, np.zeros(length - len(values), values.dtype)])
