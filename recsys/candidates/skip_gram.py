"""Skip-gram with negative sampling: item vectors that foretell what is watched near an item.

Sessions are the sentences, items the words. A pair is a watch and one near it in its session; the
loss tells the one near it from items drawn by their frequency to the power of 3/4. Items watched
often are left out of sessions now and then, before pairs are made, so that what is left stands
nearer. Unlike item2vec, whose sessions are sets, a pair has a distance: each watch draws anew in
each epoch how far it looks, so near ones count more.

References:
    Mikolov et al. 2013, Distributed Representations of Words and Phrases and their
    Compositionality.
    Barkan & Koenigstein 2016, Item2Vec: Neural Item Embedding for Collaborative Filtering.
"""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.popularity import MICROSECONDS_PER_MINUTE
from recsys.candidates.sequences import Labels
from recsys.core import losses
from recsys.core.backends import Batch, Tensor, to_numpy
from recsys.core.layers.embedding import Embedding
from recsys.core.random import stream, stream_seed
from recsys.core.training import train
from recsys.errors import DataError
from recsys.settings import SkipGramSettings, TrainingSettings

NEGATIVE_POWER = 0.75
"""Of the frequencies that negatives are drawn by: Mikolov et al. 2013, section 2.2."""


class SkipGram(keras.Model):  # type: ignore[misc]
    """Two tables: of an item that is watched, and of one that is watched near it.

    Args:
        num_items: N.
        width: D.
        seed: Of initial values.
    """

    def __init__(self, num_items: int, width: int, *, seed: int) -> None:
        super().__init__(name="skip_gram")
        self.items = Embedding(num_items + 1, width, seed=stream_seed(seed, "items"), name="items")
        # Zeros: at first, nothing is near anything.
        self.nearby = Embedding(num_items + 1, width, seed=0, deviation=0.0, name="nearby")
        self.build()

    def build(self, batch_shape: object = None) -> None:
        """Make both tables: float32 [N + 1, D]."""
        self.items.build(None)
        self.nearby.build(None)
        self.built = True

    def loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of pairs.

        Args:
            batch: `item`, `near` int32 [B], rows; `negatives` int32 [B, K], rows; `weight` float32
                [B], 0 for padding.
        """
        vectors = self.items(batch["item"] + 1)  # [B, D]
        near, negatives = batch["near"], batch["negatives"]
        values = losses.negative_sampling(
            ops.sum(vectors * self.nearby(near + 1), axis=-1),
            ops.sum(vectors[:, None] * self.nearby(negatives + 1), axis=-1),
            ops.equal(negatives, near[:, None]),
        )
        return losses.weighted_mean(values, batch["weight"]), {}

    def item_rows(self) -> np.ndarray:
        """Return the vectors of all items: float32 [N, D]."""
        return to_numpy(self.items.table.value)[1:]


class PairBatches:
    """Gives the batches of an epoch, a pure function of (seed, epoch).

    Args:
        labels: Training watches of trained items.
        num_items: N.
        settings: Window, sample, batches.
        seed: Where chance comes from.

    Raises:
        DataError: No session has two watches.
    """

    def __init__(
        self, labels: Labels, num_items: int, settings: SkipGramSettings, *, seed: int
    ) -> None:
        self._settings, self._seed = settings, seed
        self._item, self._session = sessions(labels, settings.pause_minutes)
        if len(self._item) == self._session[-1]:
            raise DataError(
                f"candidates.skip_gram: expected a session of two watches or more, got none in "
                f"{len(self._item):,} watches: raise pause_minutes, or set initial_items = 'random'"
            )
        counts = np.bincount(self._item, minlength=num_items)
        self._kept_share = kept_shares(counts, settings.subsample)
        mixture = {"frequency": settings.batch_size * settings.num_negatives}
        self._sampler = NegativeSampler(mixture, counts**NEGATIVE_POWER)  # type: ignore[arg-type]

    def __call__(self, epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of an epoch: `SkipGram.loss_of` says of what."""
        item, near = self._pairs(epoch)
        rng = stream(self._seed, "negatives", epoch)
        size, num_negatives = self._settings.batch_size, self._settings.num_negatives
        for start in range(0, len(item), size):
            taken = min(size, len(item) - start)
            chosen = np.resize(np.arange(start, start + taken), size)
            yield {
                "item": item[chosen],
                "near": near[chosen],
                "negatives": self._sampler.sample(rng)[0].reshape(size, num_negatives),
                "weight": (np.arange(size) < taken).astype(np.float32),
            }

    def num_batches(self) -> int:
        """Return the number of batches in the first epoch; other epochs have about as many."""
        return -(-len(self._pairs(0)[0]) // self._settings.batch_size)

    def _pairs(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of an epoch, shuffled: int32 [n] twice."""
        rng = stream(self._seed, "pairs", epoch)
        kept = np.flatnonzero(rng.random(len(self._item)) < self._kept_share[self._item])
        reach = rng.integers(1, self._settings.window + 1, len(kept))
        first, second = near_pairs(self._session[kept], reach)
        item = self._item[kept]
        order = rng.permutation(len(first))
        return item[first[order]], item[second[order]]


def skip_gram_rows(
    labels: Labels,
    num_items: int,
    width: int,
    settings: SkipGramSettings,
    *,
    directory: Path,
    seed: int,
) -> np.ndarray:
    """Train, or take up a training that was begun in the directory; return float32 [N, D]."""
    net = SkipGram(num_items, width, seed=seed)
    batches = PairBatches(labels, num_items, settings, seed=seed)
    training = TrainingSettings(
        batch_size=settings.batch_size,
        max_epochs=settings.max_epochs,
        learning_rate=settings.learning_rate,
        table_optimizer="lazy_adam",
        tensorboard=False,
    )
    train(
        net,
        net.loss_of,
        batches,
        None,
        training,
        monitor="",
        larger_is_better=False,
        directory=directory,
        seed=seed,
        description="skip-gram",
        num_batches=batches.num_batches(),
    )
    return net.item_rows()


def sessions(labels: Labels, pause_minutes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Put watches in order, and number their sessions.

    Args:
        labels: Watches.
        pause_minutes: Longest pause within a session; None: sessions end with their user.

    Returns:
        int32 [L], items by user and moment; int64 [L], the session of each, ascending.
    """
    order = np.lexsort((labels.moment, labels.user))
    user, moment, has_time = labels.user[order], labels.moment[order], labels.has_time[order]
    begins = np.diff(user, prepend=-1) != 0
    if pause_minutes is not None:
        pause = np.diff(moment, prepend=0)
        begins |= has_time & (pause > pause_minutes * MICROSECONDS_PER_MINUTE)
    return labels.item[order], np.cumsum(begins)


def kept_shares(counts: np.ndarray, threshold: float) -> np.ndarray:
    """Return with what probability a watch of each item stays: sqrt(t / f), at most 1.

    Mikolov et al. 2013, eq. 5; f is the item's share of all watches: int [N] -> float64 [N].
    """
    if threshold == 0:
        return np.ones(len(counts))
    share = counts / max(counts.sum(), 1)
    return np.minimum(np.sqrt(threshold / np.maximum(share, 1e-12)), 1.0)


def near_pairs(session: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs (watch, one near it) of a session, both ways round.

    Args:
        session: int64 [W], ascending.
        reach: int64 [W], how far each watch looks.

    Returns:
        int64 [n] twice, places of both: at most as far apart as the first one looks.
    """
    firsts, seconds = [], []
    for distance in range(1, int(reach.max(initial=0)) + 1):
        left = np.flatnonzero(session[distance:] == session[:-distance])
        right = left + distance
        looks_ahead, looks_back = reach[left] >= distance, reach[right] >= distance
        firsts += [left[looks_ahead], right[looks_back]]
        seconds += [right[looks_ahead], left[looks_back]]
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *firsts]), np.concatenate([empty, *seconds])
