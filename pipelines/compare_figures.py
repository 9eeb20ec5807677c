"""The figures of a comparison: arrays of both sides in, changes with intervals out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from pipelines.compare_log import AskedEvents
from pipelines.compare_segments import DAY_MICROSECONDS, NO_TIME
from pipelines.compare_sides import SIDES, Answers, ItemSpace
from recsys.data.columns import integers
from recsys.evaluation.intervals import Interval, mean_intervals, statistic_interval
from recsys.evaluation.list_attributes import mean_age, topic_diversity
from recsys.evaluation.list_overlap import jaccard, rank_biased_overlap
from recsys.evaluation.metrics import (
    Relevant,
    catalogue_coverage,
    find_hits,
    hit_rate,
    popularity_percentile,
    ranking_metrics,
)
from recsys.evaluation.ranking import user_aucs, xauc
from recsys.experiment.paired import Change, compare_pairs
from recsys.settings import ComparisonSettings

Changes = dict[str, Change]
Values = list[dict[str, np.ndarray]]
"""For each side, metric -> float [Q]."""
PAIR_ROUNDS = 200
"""Of the bootstrap of XAUC, each round of which counts all pairs anew."""
EXAMPLE_ITEMS = 10


def accuracy(answers: Sequence[Answers], targets: np.ndarray, ks: Sequence[int]) -> Values:
    """Return what each side is worth on each request: hr, ndcg and mrr of the page, and whether
    the target is among the candidates at all."""
    relevant = Relevant.single(targets)
    sides = []
    for side in answers:
        values = ranking_metrics(side.lists[:, : max(ks)], relevant, ks)
        kept = {name: values[name] for k in ks for name in (f"hr@{k}", f"ndcg@{k}", f"mrr@{k}")}
        length = side.lists.shape[1]
        kept["candidate_recall"] = hit_rate(find_hits(side.lists, relevant), length)
        sides.append(kept)
    return sides


def exposure(
    answers: Sequence[Answers], asked: AskedEvents, space: ItemSpace, settings: ComparisonSettings
) -> Changes:
    """Compare what the pages are made of, whoever likes it: popularity, diversity, age, coverage.

    Returns:
        Changes; what the items table does not know is absent. Coverage has no interval: it is no
        mean over users, and grows with their number.
    """
    k, topics = settings.ks[0], _topics(space)
    born = integers(space.table, "upload_time", NO_TIME)
    sides: Values = []
    for side in answers:
        lists = side.lists.astype(np.int64)
        age = mean_age(lists, born, asked.column("moment"), k, unknown=NO_TIME)
        values = {
            "popularity_percentile": popularity_percentile(lists, space.watch_counts, k),
            "item_age_days": age / DAY_MICROSECONDS,
        }
        if topics is not None:
            values["diversity"] = topic_diversity(lists, topics, k)
        sides.append(values)
    first, second = sides
    changes = compare_pairs(
        first, second, asked.users, rounds=settings.bootstrap_rounds, seed=settings.seed
    )
    known = {name: change for name, change in changes.items() if change.first == change.first}
    shares = [catalogue_coverage(side.lists, len(space), k) for side in answers]
    return known | {"coverage": _exact_change(*shares)}


def latency(milliseconds: np.ndarray, settings: ComparisonSettings) -> Change:
    """Compare the medians of times taken on the same requests: float64 [2, Q]."""
    first, second = milliseconds
    rounds, seed = settings.bootstrap_rounds, settings.seed
    requests = np.arange(len(first))

    def lift(rows: np.ndarray) -> float:
        return float(np.median(second[rows]) / np.median(first[rows])) - 1

    def difference(rows: np.ndarray) -> float:
        return float(np.median(second[rows]) - np.median(first[rows]))

    return Change(
        first=float(np.median(first)),
        second=float(np.median(second)),
        difference=statistic_interval(difference, requests, rounds=rounds, seed=seed),
        lift=statistic_interval(lift, requests, rounds=rounds, seed=seed),
    )


def prediction_changes(
    predictions: Sequence[Mapping[str, np.ndarray]],
    seconds: np.ndarray,
    is_watch: np.ndarray,
    users: np.ndarray,
    settings: ComparisonSettings,
) -> Changes:
    """Compare what both rankers said of the same impressions.

    Args:
        predictions: Of each side, `expected_seconds` and `median_seconds`, float [R].
        seconds: float [R], as watched.
        is_watch: bool [R], positive by the log's rule.
        users: int [R].
        settings: Rounds and seed.

    Returns:
        `mae_seconds` (of the median), `xauc` and `gauc` (of the expected seconds; GAUC tells
        positive watches from others within users), without those that have nothing to count.
    """
    rounds, seed = settings.bootstrap_rounds, settings.seed
    errors = [{"mae_seconds": np.abs(seconds - side["median_seconds"])} for side in predictions]
    changes = compare_pairs(errors[0], errors[1], users, rounds=rounds, seed=seed)
    expected = [side["expected_seconds"] for side in predictions]

    def pairs_in_order(side: int, rows: np.ndarray) -> float:
        return xauc(seconds[rows], expected[side][rows]).ties_dropped

    every = np.arange(len(seconds))
    values = [pairs_in_order(side, every) for side in range(len(SIDES))]
    difference = statistic_interval(
        lambda rows: pairs_in_order(1, rows) - pairs_in_order(0, rows),
        users,
        rounds=PAIR_ROUNDS,
        seed=seed,
    )
    changes["xauc"] = Change(values[0], values[1], difference, _over(difference, values[0]))
    aucs = [user_aucs(users, is_watch, side) for side in expected]
    weights = aucs[0][1].astype(np.float64)
    changes |= compare_pairs(
        {"gauc": aucs[0][0]},
        {"gauc": aucs[1][0]},
        np.arange(len(weights)),
        weights=weights,
        rounds=rounds,
        seed=seed,
    )
    return {name: change for name, change in changes.items() if change.first == change.first}


def overlap(
    answers: Sequence[Answers], users: np.ndarray, settings: ComparisonSettings
) -> dict[str, Interval]:
    """Return how much of the pages both sides have in common, with intervals."""
    first, second = (side.lists[:, : max(settings.ks)] for side in answers)
    values = {f"jaccard@{k}": jaccard(first, second, k) for k in settings.ks}
    k = settings.ks[0]
    values[f"rank_biased_overlap@{k}"] = rank_biased_overlap(
        first[:, :k], second[:, :k], settings.persistence
    )
    return mean_intervals(values, users, rounds=settings.bootstrap_rounds, seed=settings.seed)


def winners(gain: np.ndarray, users: np.ndarray) -> dict[str, int]:
    """Count the users by whose lists were better for them on the whole: float [Q], int [Q]."""
    _, user = np.unique(users, return_inverse=True)
    total = np.bincount(user, gain)
    # Sums of equal and opposite gains may miss 0 by a rounding.
    won, lost = int((total > 1e-12).sum()), int((total < -1e-12).sum())
    return {SIDES[1]: won, SIDES[0]: lost, "equal": len(total) - won - lost}


def examples(
    gain: np.ndarray, answers: Sequence[Answers], asked: AskedEvents, space: ItemSpace, number: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the requests that each side wins by most, a user once.

    Args:
        gain: float [Q], the second side's metric less the first's.
        answers: Of both.
        asked: The watches.
        space: The items.
        number: Of examples a side, at most.
    """
    return {
        side: [_example(row, answers, asked, space) for row in _clearest(gains, asked, number)]
        for side, gains in ((SIDES[1], gain), (SIDES[0], -gain))
    }


def _clearest(gain: np.ndarray, asked: AskedEvents, number: int) -> list[int]:
    order = np.argsort(-gain, kind="stable")
    _, first = np.unique(asked.users[order], return_index=True)
    own = order[np.sort(first)][:number]
    return own[gain[own] > 0].tolist()


def _example(
    row: int, answers: Sequence[Answers], asked: AskedEvents, space: ItemSpace
) -> dict[str, Any]:
    target = int(asked.column("item")[row])
    found: dict[str, Any] = {"user_id": asked.user_id(row), "target": _titles(space, [target])[0]}
    for side, answer in zip(SIDES, answers, strict=True):
        items = answer.lists[row]
        place = np.flatnonzero(items == target)
        page = items[:EXAMPLE_ITEMS]
        found[side] = {
            "place": int(place[0]) + 1 if len(place) else None,
            "items": _titles(space, page[page >= 0].tolist()),
        }
    return found


def _titles(space: ItemSpace, rows: list[int]) -> list[str]:
    table = space.table.take(rows)
    ids = table["item_id"].to_pylist()
    titles = table["title"].to_pylist() if "title" in table.column_names else ids
    return [title or item_id for title, item_id in zip(titles, ids, strict=True)]


def _topics(space: ItemSpace) -> csr_array | None:
    """Return which item has which topic, or else which channel; None where neither is known."""
    names = space.table.column_names
    column = next((name for name in ("topics", "channel_id") if name in names), None)
    if column is None:
        return None
    values = space.table[column].to_pylist()
    owned = [value if column == "topics" else [value] for value in values]
    pairs = sorted(
        {(row, one) for row, own in enumerate(owned) for one in own or () if one is not None}
    )
    if not pairs:
        return None
    rows, topics = zip(*pairs, strict=True)
    _, number = np.unique(topics, return_inverse=True)
    shape = (len(space), int(number.max()) + 1)
    return csr_array((np.ones(len(rows)), (rows, number)), shape=shape)


def _exact_change(first: float, second: float) -> Change:
    nan = float("nan")
    difference = Interval(second - first, nan, nan)
    return Change(first, second, difference, _over(difference, first))


def _over(difference: Interval, value: float) -> Interval:
    """Return a difference as shares of a value that is taken as known."""
    if value == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    return Interval(difference.value / value, difference.low / value, difference.high / value)
