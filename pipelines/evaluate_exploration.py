"""How well the neural process knows how sure it is: its intervals on the test part."""

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.examples import TEST
from recsys.data.prepared import Prepared
from recsys.exploration.calibration import FIRST_SIZES
from recsys.exploration.predictor import Predictor
from recsys.exploration.rows import ExplorationRows, exploration_rows
from recsys.ranking.items import ItemFeatures
from recsys.settings import RecsysSettings

CHUNK = 8192
"""Impressions predicted at a time."""


def evaluate_exploration(
    settings: RecsysSettings, prepared: Prepared, directory: Path
) -> list[dict[str, Any]]:
    """Return the coverage of the 80 % intervals by the number of known watches.

    Args:
        settings: Of the run.
        prepared: The log.
        directory: The trained neural process.

    Returns:
        A row for each band that has test impressions, as `recsys.evaluation.report` describes.
    """
    process = Predictor.load(directory)
    items = ItemFeatures.build(prepared.catalogue, prepared.vocabularies, settings.ranking)
    length = settings.exploration.context_length
    with tempfile.TemporaryDirectory() as scratch:
        rows = exploration_rows(prepared, items, process.spec, (TEST,), length, Path(scratch))
        low, high = _intervals(process, rows)
    seconds = rows.impressions.watch_ms / 1000
    return coverage_by_size(rows.context_sizes(), seconds, low, high, length)


def coverage_by_size(
    sizes: np.ndarray, seconds: np.ndarray, low: np.ndarray, high: np.ndarray, length: int
) -> list[dict[str, Any]]:
    """Count how many watches lie in their intervals, by bands of context sizes.

    Args:
        sizes: int [R], known watches, at most `length`.
        seconds, low, high: float [R], the watch and its interval.
        length: Of the longest context.
    """
    rows = []
    for first, end in pairwise((*[size for size in FIRST_SIZES if size <= length], length + 1)):
        own = (sizes >= first) & (sizes < end)
        name = f"{first} to {end - 1}" if end - 1 > first else str(first)
        if own.any():
            below, above = seconds[own] < low[own], seconds[own] > high[own]
            rows.append(
                {
                    "name": f"{first} or more" if end > length else name,
                    "impressions": int(own.sum()),
                    "coverage": float(1 - (below | above).mean()),
                    "below": float(below.mean()),
                    "above": float(above.mean()),
                }
            )
    return rows


def _intervals(process: Predictor, rows: ExplorationRows) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for start in range(0, len(rows), CHUNK):
        chosen = np.arange(start, min(start + CHUNK, len(rows)))
        found = process.predict(rows.inputs(chosen, rows.context[chosen]))
        parts.append(np.stack([found.low_seconds[:, 0], found.high_seconds[:, 0]]))
    low, high = np.concatenate([*parts, np.zeros((2, 0))], axis=1)
    return low, high
