"""Histories of 200 watches to learn from: a world in which a long memory pays, and a log's.

    reminders   one of four items begins a series; 16 to 24 watches later the user comes back, and
                what is watched next is the series' next part. All between is chance. Whoever
                remembers is always right; whoever forgets, a quarter of the time.
    next item   the newest watches of the synthetic log's users: which is the next?

Training draws histories with a label after each watch, or after some. What is held out are other
histories (reminders) or the eight watches after those that were learned (next item).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recsys.core.random import stream
from recsys.data.timelines import WatchHistories

LENGTH = 200
CHUNK = 8
BATCH = 32
NUM_SERIES, NUM_OTHERS = 4, 10
BLOCK, GAPS = 40, (16, 24)
"""Watches in which a series begins and goes on once, and how many lie between: from, to."""
NUM_HELD_OUT = 8
"""Watches of a user of the log."""


@dataclass(frozen=True)
class Histories:
    """Histories to learn from.

    Args:
        items: int32 [B, T], codes from 1.
        labels: int32 [B, T], what is watched after each.
        weight: float32 [B, T], 0 where there is no label.
        ahead: float32 [B, T / 8 + 1, L], how often each label comes in the next chunk that has any,
            the chunk that begins there included; zeros where none has.
    """

    items: np.ndarray
    labels: np.ndarray
    weight: np.ndarray
    ahead: np.ndarray


@dataclass(frozen=True)
class Task:
    """What is to be learned.

    Args:
        num_items, num_labels: Codes of items go to `num_items`, labels to below `num_labels`.
        draw: Returns a batch to learn from.
        items: int32 [U, T'], held out.
        places: int32 [U, P], how many of the items are known at each held-out label.
        labels: int32 [U, P].
        k: The metric is NDCG@k; of 1, the share of right answers.
    """

    num_items: int
    num_labels: int
    draw: Callable[[np.random.Generator], Histories]
    items: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    k: int

    def metric(self, logits: np.ndarray) -> float:
        """Return NDCG@k of float [U, P, L]; a tie counts against the label."""
        own = np.take_along_axis(logits, self.labels[..., None], axis=-1)
        rank = (logits >= own).sum(axis=-1)
        return float(np.where(rank <= self.k, 1 / np.log2(1 + rank), 0.0).mean())


def reminders(num_held_out: int) -> Task:
    """Return the world in which a long memory pays."""
    items, labels, weight = _draw_reminders(num_held_out, stream(0, "held_out"))
    places = np.nonzero(weight)[1].reshape(num_held_out, -1)
    return Task(
        num_items=1 + NUM_SERIES + NUM_OTHERS,
        num_labels=NUM_SERIES,
        draw=lambda rng: with_labels_ahead(*_draw_reminders(BATCH, rng), NUM_SERIES),
        items=items,
        places=(places + 1).astype(np.int32),
        labels=np.take_along_axis(labels, places, axis=1),
        k=1,
    )


def _draw_reminders(
    number: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw items, labels and weight: series are 1 to 4, coming back is 5, all else chance."""
    coming_back = NUM_SERIES + 1
    items = rng.integers(coming_back + 1, coming_back + 1 + NUM_OTHERS, (number, LENGTH))
    labels, weight = np.zeros((number, LENGTH)), np.zeros((number, LENGTH))
    user = np.arange(number)
    for first in range(0, LENGTH, BLOCK):
        begins = first + rng.integers(0, CHUNK, number)
        series = rng.integers(0, NUM_SERIES, number)
        goes_on = begins + rng.integers(GAPS[0], GAPS[1] + 1, number)
        items[user, begins], items[user, goes_on] = 1 + series, coming_back
        labels[user, goes_on], weight[user, goes_on] = series, 1
    return items.astype(np.int32), labels.astype(np.int32), weight.astype(np.float32)


def next_item(histories: WatchHistories, num_items: int) -> Task:
    """Return the task of a log's users of enough watches."""
    length = LENGTH + NUM_HELD_OUT
    counts = np.diff(histories.offsets)
    users = np.flatnonzero(counts > length)
    codes = histories.newest(users, counts[users], length + 1)  # [U, T' + 1]

    def draw(rng: np.random.Generator) -> Histories:
        chosen = codes[rng.choice(len(codes), BATCH, replace=False), : LENGTH + 1]
        labels, weight = chosen[:, 1:] - 1, np.ones((BATCH, LENGTH), np.float32)
        return with_labels_ahead(chosen[:, :-1], labels, weight, num_items)

    places = np.arange(LENGTH + 1, length + 1, dtype=np.int32)
    return Task(
        num_items=num_items,
        num_labels=num_items,
        draw=draw,
        items=codes[:, :-1],
        places=np.tile(places, (len(codes), 1)),
        labels=codes[:, places] - 1,
        k=10,
    )


def with_labels_ahead(
    items: np.ndarray, labels: np.ndarray, weight: np.ndarray, num_labels: int
) -> Histories:
    """Add what is known, while training, of the labels behind each cut."""
    user, time = np.nonzero(weight)
    ahead = np.zeros((len(items), items.shape[1] // CHUNK + 1, num_labels), np.float32)
    np.add.at(ahead, (user, time // CHUNK, labels[user, time]), 1)
    for chunk in range(ahead.shape[1] - 2, -1, -1):
        has_none = ~ahead[:, chunk].any(axis=-1)
        ahead[has_none, chunk] = ahead[has_none, chunk + 1]
    return Histories(items, labels, weight, ahead)
