"""The held-out watches of a log, as the requests that the server would have been sent."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.data.examples import CandidateExamples
from recsys.data.prepared import Prepared, Shard
from recsys.data.user_states import user_states
from recsys.requests import Request


@dataclass(frozen=True)
class HeldOut:
    """Q watches to be predicted, user after user.

    Args:
        prepared: The log.
        labels: For each shard, int64 positions in its `CandidateExamples`, ascending.
    """

    prepared: Prepared
    labels: list[np.ndarray]

    def __len__(self) -> int:
        """Return the number of watches."""
        return sum(len(part) for part in self.labels)

    @cached_property
    def targets(self) -> np.ndarray:
        """Catalogue row of the item that was watched: int32 [Q]."""
        return self._gather("item")

    @cached_property
    def moments(self) -> np.ndarray:
        """When it was watched: int64 [Q]."""
        return self._gather("moment")

    @cached_property
    def users(self) -> np.ndarray:
        """Number of the user, counted over shards: int64 [Q]."""
        sizes = [len(shard.user_ids) for shard in self.prepared.shards]
        first = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        own = [
            shard.candidates.user[labels] + start
            for shard, labels, start in zip(self.prepared.shards, self.labels, first, strict=True)
        ]
        return np.concatenate(own)

    @cached_property
    def histories(self) -> tuple[np.ndarray, np.ndarray]:
        """What each user had watched before: offsets int64 [Q + 1] and catalogue rows int32."""
        lengths, rows = [], []
        for shard, labels in zip(self.prepared.shards, self.labels, strict=True):
            known = shard.candidates.known_watches[labels].astype(np.int64)
            first = shard.histories.offsets[shard.candidates.user[labels]]
            within = np.arange(known.sum()) - np.repeat(np.cumsum(known) - known, known)
            rows.append(shard.histories.code[np.repeat(first, known) + within] - 1)
            lengths.append(known)
        return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]), np.concatenate(rows)

    def requests(self, *, seen_removed: bool) -> Iterator[Request]:
        """Yield the questions, in the order of the arrays.

        Args:
            seen_removed: Whether watched items are left out of the answer.
        """
        for shard, labels in zip(self.prepared.shards, self.labels, strict=True):
            yield from self._requests_of(shard, labels, seen_removed)

    def _gather(self, name: str) -> np.ndarray:
        pairs = zip(self.prepared.shards, self.labels, strict=True)
        return np.concatenate([getattr(shard.candidates, name)[own] for shard, own in pairs])

    def _requests_of(
        self, shard: Shard, labels: np.ndarray, seen_removed: bool
    ) -> Iterator[Request]:
        examples = shard.candidates
        owners = examples.user[labels]
        for number, state in enumerate(user_states(self.prepared, shard)):
            start, end = np.searchsorted(owners, [number, number + 1])
            for label in labels[start:end].tolist():
                yield Request(
                    user=state,
                    now=int(examples.moment[label]),
                    has_time=bool(examples.has_time[label]),
                    context=self._context(examples, label),
                    seen_removed=seen_removed,
                )

    def _context(self, examples: CandidateExamples, label: int) -> dict[str, str | float]:
        """Return the context that the event carried, by name."""
        codes = {name: int(values[label]) for name, values in examples.context.items()}
        return {
            name: self.prepared.vocabularies[name].ids(np.array([code - 1]))[0]
            for name, code in codes.items()
            if code > 0
        }


def held_out_watches(
    prepared: Prepared, split: int, *, max_watches: int | None, rng: np.random.Generator
) -> HeldOut:
    """Choose the evaluation targets of a split.

    Args:
        prepared: The log.
        split: `VALIDATION` or `TEST`.
        max_watches: A random sample where there are more.
        rng: Of the sample.
    """
    labels = [
        np.flatnonzero((shard.candidates.split == split) & shard.candidates.is_target)
        for shard in prepared.shards
    ]
    total = sum(len(part) for part in labels)
    if max_watches is None or total <= max_watches:
        return HeldOut(prepared, labels)
    kept = np.zeros(total, bool)
    kept[rng.choice(total, max_watches, replace=False)] = True
    ends = np.cumsum([len(part) for part in labels])[:-1]
    parts = zip(labels, np.split(kept, ends), strict=True)
    return HeldOut(prepared, [part[mask] for part, mask in parts])
