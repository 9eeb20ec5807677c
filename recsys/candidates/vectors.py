"""User vectors in bulk, and how well they rank held-out watches while the net is trained."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from keras import ops

from recsys.candidates.batches import side_inputs
from recsys.candidates.crowd import NOBODY, Crowd
from recsys.candidates.model import CandidateModel
from recsys.candidates.query_time import MICROSECONDS_PER_MINUTE, minutes_since
from recsys.candidates.sequences import Labels, Sequences
from recsys.candidates.successors import count_successors
from recsys.candidates.user_tower import successor_weights
from recsys.core.backends import Tensor, compile_call
from recsys.settings import CandidateSettings

CHUNK = 1024
"""Users computed at a time."""

Inputs = Mapping[str, np.ndarray]
"""Of the served tower: `history` int32 [B, T], `history_length` int32 [B], and what else the
settings use of `search_tokens` int32 [B, S], `context` int32 [B, C], `age` float32 [B],
`query_time` float32 [B, 4], `minutes_since_watch` float32 [B], `watch_seconds` float32 [B, T],
`minutes_since_forecast` float32 [B]."""


def tower(model: CandidateModel, factor: float = 1.0) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return the served function: `Inputs` -> float32 [B, interests, D'], example age 0.

    Args:
        model: Its weights are read when the function is traced.
        factor: Of the vectors.
    """

    def user_vectors(inputs: Mapping[str, Tensor]) -> Tensor:
        whole = {name: inputs[name] for name in ("history", "watch_seconds") if name in inputs}
        batch = {name: value[:, None] for name, value in inputs.items() if name not in whole}
        batch["positions"] = batch.pop("history_length")
        if model.settings.example_age:
            batch["example_age"] = ops.zeros_like(batch["positions"], dtype="float32")
        vectors = model.served_user_vectors(batch | whole)
        return vectors if factor == 1 else factor * vectors

    return user_vectors


def served_inputs(sequences: Sequences, labels: Labels, settings: CandidateSettings) -> Inputs:
    """Return the tower's inputs as of just before each label; forecasts are of the last horizon."""
    length = settings.history_length
    side = side_inputs(sequences, labels, np.arange(len(labels)), settings)
    side.pop("example_age", None)
    history = sequences.histories.newest(labels.user, labels.known_watches, length)
    history_length = np.minimum(labels.known_watches, length).astype(np.int32)
    if settings.watch_times:
        side["watch_seconds"] = sequences.histories.newest_seconds(
            labels.user, labels.known_watches, length
        )
    if settings.forecast_minutes:
        horizon = settings.forecast_minutes * MICROSECONDS_PER_MINUTE
        made = labels.moment // horizon * horizon
        side["minutes_since_forecast"] = minutes_since(labels.moment, made, labels.has_time)
    return {"history": history, "history_length": history_length, **side}


class BulkTower:
    """Computes user vectors in chunks of one shape, compiled once.

    Args:
        model: Its weights are read at each call.
    """

    def __init__(self, model: CandidateModel) -> None:
        self._call = compile_call(model, tower(model))

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """Return float32 [B, interests, D']."""
        count = len(inputs["history"])
        vectors = [self._call(chunk) for chunk in _chunks(inputs, count)]
        return np.concatenate(vectors)[:count]


def _chunks(inputs: Inputs, count: int) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, max(count, 1), CHUNK):
        chunk = {name: value[start : start + CHUNK] for name, value in inputs.items()}
        yield {name: _fill(value) for name, value in chunk.items()}


def _fill(values: np.ndarray) -> np.ndarray:
    missing = CHUNK - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])


class ValidationRanking:
    """Ranks held-out watches among all trained items, without those that the user has seen.

    A watch of an item without a vector is a miss; so is one of an item seen before. A tie with
    another item counts against the target.

    Args:
        sequences: Of all users.
        labels: Held-out watches.
        settings: The net's inputs.
        is_seen_filtered: Leave out the items that the user has watched.
        crowd: What the net is told of all users, as of the last refresh before each label.
    """

    def __init__(
        self,
        sequences: Sequences,
        labels: Labels,
        settings: CandidateSettings,
        *,
        is_seen_filtered: bool = True,
        crowd: Crowd = NOBODY,
    ) -> None:
        self._labels, self._popularity = labels, crowd.popularity
        self._settings, self._successors = settings, crowd.successors
        self.inputs = served_inputs(sequences, labels, settings)
        self._histories = sequences.histories
        self._is_seen_filtered = is_seen_filtered

    def metrics(self, user_vectors: np.ndarray, item_vectors: np.ndarray) -> dict[str, float]:
        """Return hit rates and NDCG of vectors made from `inputs`: [L, K, D'], [N, D']."""
        return ranking_metrics(self.ranks(user_vectors, item_vectors))

    def ranks(self, user_vectors: np.ndarray, item_vectors: np.ndarray) -> np.ndarray:
        """Return the rank of each held-out watch, from 1: float64 [L], infinite for a miss.

        Args:
            user_vectors: float32 [L, interests, D']; an item scores by the nearest interest.
            item_vectors: float32 [at least N, D'], without the dimensions of a popularity.
        """
        ranks = np.full(len(self._labels), np.inf)
        refreshes = np.zeros(len(ranks), np.int64)
        if self._popularity is not None:
            refreshes = self._popularity.refreshes(self._labels.moment)
        for refresh in np.unique(refreshes).tolist():
            vectors = self._with_popularity(item_vectors, refresh)
            members = np.flatnonzero(refreshes == refresh)
            for start in range(0, len(members), CHUNK):
                chosen = members[start : start + CHUNK]
                scores = (user_vectors[chosen] @ vectors.T).max(axis=1)  # [b, N]
                self._add_successions(scores, user_vectors[chosen, 0], chosen)
                ranks[chosen] = self._ranks_of(chosen, scores)
        return ranks

    def _with_popularity(self, item_vectors: np.ndarray, refresh: int) -> np.ndarray:
        if self._popularity is None:
            return item_vectors
        columns = self._popularity.columns(refresh)
        return np.concatenate([item_vectors[: len(columns)], columns], axis=1)

    def _add_successions(
        self, scores: np.ndarray, user_vectors: np.ndarray, chosen: np.ndarray
    ) -> None:
        if self._successors is None:
            return
        windows = self._settings.successor_windows
        newest = self._successors.of_labels(self._histories, self._labels, chosen, max(windows))
        counts = count_successors(newest, windows)
        weights = successor_weights(user_vectors, self._settings)
        gained = (weights[counts.query] * counts.columns).sum(axis=1)
        scores[counts.query, counts.code - 1] += gained

    def _ranks_of(self, chosen: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if self._is_seen_filtered:
            owner, seen = self._seen(chosen)
            scores[owner, seen] = -np.inf
        target = self._labels.item[chosen]
        own = scores[np.arange(len(chosen)), np.maximum(target, 0)]
        rank = np.count_nonzero(scores >= own[:, None], axis=1)
        return np.where((target >= 0) & np.isfinite(own), rank, np.inf)

    def _seen(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs (index into `chosen`, item row) of all watches known."""
        counts = self._labels.known_watches[chosen]
        owner = np.repeat(np.arange(len(chosen)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = self._histories.offsets[self._labels.user[chosen]]
        return owner, self._histories.code[first[owner] + within] - 1


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Return `hr@10`, `hr@50` and `ndcg@10` of one target each: float [L], ranks from 1."""
    gain = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)
    return {
        "hr@10": float(np.mean(ranks <= 10)),
        "hr@50": float(np.mean(ranks <= 50)),
        "ndcg@10": float(np.mean(gain)),
    }
