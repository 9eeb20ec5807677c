"""Ranking metrics beside ranx: the same values, on random lists of 100,000 users, and its time.

Both are given what they work on: ours arrays, ranx typed lists of arrays, compiled and built
beforehand, which is the fastest of its inputs. The time is the best of five, each with its defaults
(ranx: all cores, ours: one).
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from recsys.evaluation.metrics import Relevant, ranking_metrics

NUM_USERS, LENGTH, NUM_ITEMS, MAX_RELEVANT = 100_000, 100, 50_000, 20
KS = (10, 100)
TIMES = 5


def audit(seed: int) -> dict[str, Any]:
    """Return the largest difference of any mean metric, and ranx's time over ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ranx
            from numba.typed import List
    except ImportError:
        print("skipped: ranking metrics are compared with ranx, which is not installed")
        return {}
    ranked, relevant = _draw_lists(np.random.default_rng(seed))
    scores = np.arange(LENGTH, 0, -1.0)
    run, judged = List(), List()
    for query in range(NUM_USERS):
        run.append(np.column_stack([ranked[query], scores]))
        own = relevant.part(query, query + 1).items
        judged.append(np.column_stack([own, np.ones(len(own))]))
    ours = ranking_metrics(ranked, relevant, KS)
    names = [name.replace("hr@", "hit_rate@") for name in ours]
    theirs = ranx.evaluate(judged, run, names)
    differences = [
        abs(float(values.mean()) - float(theirs[name]))
        for values, name in zip(ours.values(), names, strict=True)
    ]
    our_seconds = _best_seconds(lambda: ranking_metrics(ranked, relevant, KS))
    their_seconds = _best_seconds(lambda: ranx.evaluate(judged, run, names))
    return {
        "ranx_max_difference": max(differences),
        "ranx_speed_ratio": their_seconds / our_seconds,
        "ranking_metrics_seconds": our_seconds,
        "ranx_seconds": their_seconds,
    }


def _draw_lists(rng: np.random.Generator) -> tuple[np.ndarray, Relevant]:
    """Draw lists without repetition and relevant items, half of which are listed."""
    steps = rng.integers(1, NUM_ITEMS // LENGTH, (NUM_USERS, LENGTH))
    ranked = (rng.integers(NUM_ITEMS, size=(NUM_USERS, 1)) + np.cumsum(steps, axis=1)) % NUM_ITEMS
    sets = []
    for line in ranked:
        number = int(rng.integers(1, MAX_RELEVANT))
        listed = rng.choice(line, number)
        elsewhere = rng.integers(NUM_ITEMS, size=number)
        sets.append(np.unique(np.where(rng.random(number) < 0.5, listed, elsewhere)))
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in sets])])
    return ranked, Relevant(offsets, np.concatenate(sets))


def _best_seconds(work: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(TIMES):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
