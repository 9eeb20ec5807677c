"""Two bundles asked the same questions, through the `Recommender` that serves.

Answers come in external ids and are numbered in one `ItemSpace`: the log's items, then those
that only a bundle knows.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from recsys.data.catalogue import Catalogue
from recsys.data.columns import concatenated
from recsys.data.vocabulary import Vocabulary
from recsys.progress import progress
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request

BATCH = 128
PADDING = -1
SIDES = ("A", "B")


@dataclass(frozen=True)
class ItemSpace:
    """The items of the log and of both bundles under one numbering.

    Args:
        table: Their items tables [N], the log's first.
        vocabulary: External id <-> row.
        watch_counts: int64 [N], positive watches in the training part of the log.
    """

    table: pa.Table
    vocabulary: Vocabulary
    watch_counts: np.ndarray

    @classmethod
    def of(cls, log: Catalogue, others: Sequence[Catalogue]) -> "ItemSpace":
        """Number the items of the log, then those of the others that it does not know."""
        table = log.table
        for catalogue in others:
            known = Vocabulary.from_ids(table["item_id"].to_pylist())
            unknown = known.rows(catalogue.table["item_id"]) < 0
            table = concatenated([table, catalogue.table.filter(pa.array(unknown))])
        counts = np.zeros(len(table), np.int64)
        counts[: len(log)] = log.watch_counts
        return cls(table, Vocabulary.from_ids(table["item_id"].to_pylist()), counts)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.table)


@dataclass(frozen=True)
class Answers:
    """What one bundle said.

    Args:
        lists: int32 [Q, K], items as rows of the `ItemSpace`, best first, padded with -1; all of
            its candidates, the page at the front.
        degraded: Stage -> requests that were answered without it.
    """

    lists: np.ndarray
    degraded: dict[str, int]


def ask_both(
    recommenders: Sequence[Recommender],
    requests: Iterable[Request],
    num_requests: int,
    space: ItemSpace,
) -> list[Answers]:
    """Put every request to every bundle, a batch at a time.

    Args:
        recommenders: The sides.
        requests: Whose `num_items` is the length of the lists.
        num_requests: Q.
        space: Numbers the items.
    """
    found: list[list[np.ndarray]] = [[] for _ in recommenders]
    degraded: list[Counter[str]] = [Counter() for _ in recommenders]
    stream = iter(requests)
    with (
        progress("answers of both bundles", num_requests) as task,
        # Most of an answer is the ranking net, which leaves Python to the other side meanwhile.
        ThreadPoolExecutor(len(recommenders)) as threads,
    ):
        while batch := list(islice(stream, BATCH)):
            asked = [threads.submit(each.recommend, batch) for each in recommenders]
            for side, future in enumerate(asked):
                answers = future.result()
                found[side].append(_numbered(answers, batch[0].num_items, space))
                for answer in answers:
                    degraded[side].update(answer.degraded_stages)
            task.advance(len(batch))
    return [
        Answers(np.concatenate(lists), dict(counts))
        for lists, counts in zip(found, degraded, strict=True)
    ]


def predict_both(
    recommenders: Sequence[Recommender],
    requests: Iterable[Request],
    item_ids: Sequence[str],
    names: Sequence[str],
) -> list[dict[str, np.ndarray]]:
    """Ask both rankers about given items.

    Args:
        recommenders: The sides, both with a ranking net.
        requests: Q of them.
        item_ids: [Q].
        names: Of the values wanted.

    Returns:
        For each side, name -> float32 [Q], NaN for items that it does not know.
    """
    # Begun with nothing, so that no requests have no predictions.
    nobody = {name: np.zeros(0, np.float32) for name in names}
    parts = [[nobody] for _ in recommenders]
    stream, done = iter(requests), 0
    with progress("predictions of both rankers", len(item_ids)) as task:
        while batch := list(islice(stream, BATCH)):
            ids = item_ids[done : done + len(batch)]
            nothing = np.full(len(batch), np.nan, np.float32)
            for side, recommender in enumerate(recommenders):
                values = recommender.predict(batch, ids)
                parts[side].append({name: values.get(name, nothing) for name in names})
            done += len(batch)
            task.advance(len(batch))
    return [
        {name: np.concatenate([part[name] for part in side]) for name in names} for side in parts
    ]


def time_both(recommenders: Sequence[Recommender], requests: Sequence[Request]) -> np.ndarray:
    """Time answers to one request at a time: float64 [sides, Q], milliseconds.

    The sides take turns at being first, so that neither always finds the other's warm caches.
    """
    milliseconds = np.empty((len(recommenders), len(requests)))
    for number, request in enumerate(requests):
        order = range(len(recommenders))
        for side in order if number % 2 == 0 else reversed(order):
            started = time.perf_counter()
            recommenders[side].recommend([request])
            milliseconds[side, number] = 1000 * (time.perf_counter() - started)
    return milliseconds


def _numbered(answers: Sequence[Recommendation], width: int, space: ItemSpace) -> np.ndarray:
    """Return the answers as rows of the space: int32 [n, width]."""
    lengths = np.array([len(answer.items) for answer in answers])
    ids = [item.item_id for answer in answers for item in answer.items]
    lists = np.full((len(answers), width), PADDING, np.int32)
    lists[np.arange(width) < lengths[:, None]] = space.vocabulary.rows(ids)
    return lists
