"""Whether the ranking net is served in float32 or in 8-bit integers: measured, not assumed.

Goes in: a trained directory with the float32 graph, validation rows. Comes out: `precision.json`
with the time of a request and the NDCG of both, and the chosen graph as `ranker.onnx`; the float32
one is kept beside it, and stays out of the bundle.
"""

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsys.core.onnx_quantize import quantize_products
from recsys.data.vocabulary import Vocabulary
from recsys.evaluation.ranking import seconds_ratio, user_ndcg
from recsys.ranking.export import NOT_SERVED, is_of_user, one_request
from recsys.ranking.formula import Formula
from recsys.ranking.ranker import GRAPH, Ranker
from recsys.ranking.rows import RankingRows
from recsys.ranking.spec import model_inputs
from recsys.settings import RecsysSettings

FLOAT32_GRAPH, INT8_GRAPH = "ranker_float32.onnx", "ranker_int8.onnx"
PRECISION = "precision.json"
MAX_TIME_RATIO = 0.8
"""Above it, integers are not worth what they lose."""
NUM_EXAMPLES, EXAMPLE_ROWS = 64, 64
"""Batches of validation rows that the ranges of activations are taken from."""
MAX_MEASURED = 50_000
NDCG_AT = 20
NUM_TIMED = 30
CHUNK = 4096

Features = Mapping[str, np.ndarray]


def choose_precision(
    settings: RecsysSettings,
    vocabularies: Mapping[str, Vocabulary],
    rows: RankingRows,
    chosen: np.ndarray,
    directory: Path,
) -> None:
    """Make the integer graph, measure both, keep the one that the settings want as `ranker.onnx`.

    Args:
        settings: With `ranking.precision` and `serving.num_candidates`.
        vocabularies: Of the log.
        rows: All rows; `chosen`: int64 [n], the validation rows.
        directory: Of the exported net, with all that describes it.

    Raises:
        ArtefactError: The net has no product that is worth it.
    """
    features = {
        name: rows.features[name][chosen[:MAX_MEASURED]]
        for name in model_inputs(rows.features)
        if name != NOT_SERVED
    }
    (directory / GRAPH).rename(directory / FLOAT32_GRAPH)
    num_products = quantize_products(
        directory / FLOAT32_GRAPH,
        directory / INT8_GRAPH,
        _examples(features),
        _two_candidates(_part(features, 0, EXAMPLE_ROWS)),
    )
    rankers = {
        name: Ranker.load(directory, graph)
        for name, graph in (("float32", FLOAT32_GRAPH), ("int8", INT8_GRAPH))
    }
    measured = _measure(settings, vocabularies, rankers, features, rows, chosen[:MAX_MEASURED])
    loss = _loss(measured)
    ratio = measured["int8"]["milliseconds"] / measured["float32"]["milliseconds"]
    is_good = (
        loss is not None and loss <= settings.ranking.max_ndcg_loss and ratio <= MAX_TIME_RATIO
    )
    precision = settings.ranking.precision
    if precision == "auto":
        precision = "int8" if is_good else "float32"
    shutil.copyfile(
        directory / (INT8_GRAPH if precision == "int8" else FLOAT32_GRAPH), directory / GRAPH
    )
    content = measured | {
        "chosen": precision,
        "ndcg_loss": loss,
        "time_ratio": ratio,
        "num_products": num_products,
        "num_candidates": settings.serving.num_candidates,
    }
    text = json.dumps(content, sort_keys=True, indent=1)
    (directory / PRECISION).write_text(text + "\n", encoding="utf-8")


def _loss(measured: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """Return the share of the NDCG that integers lose; None where no user shows an order."""
    float32, int8 = measured["float32"]["ndcg"], measured["int8"]["ndcg"]
    return None if float32 is None or int8 is None else 1 - int8 / float32


def _measure(
    settings: RecsysSettings,
    vocabularies: Mapping[str, Vocabulary],
    rankers: Mapping[str, Ranker],
    features: Features,
    rows: RankingRows,
    chosen: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Return time, NDCG and the ratio of seconds of each net; None for what rows do not tell."""
    formula = Formula(settings.ranking, vocabularies)
    seconds = rows.watch_ms[chosen] / 1000
    times = _request_milliseconds(rankers, features, settings.serving.num_candidates)
    measured = {}
    for name, ranker in rankers.items():
        scores, expected = _score(ranker, formula, features)
        measured[name] = {
            "milliseconds": times[name],
            "ndcg": _known(user_ndcg(rows.user[chosen], seconds, scores, NDCG_AT)),
            "seconds_ratio": _known(seconds_ratio(seconds, expected)),
        }
    return measured


def _known(value: float) -> float | None:
    """Return what JSON can hold: NaN is no number there."""
    return value if math.isfinite(value) else None


def _score(ranker: Ranker, formula: Formula, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the final score and the expected seconds of every row: float32 [R] twice."""
    scores, seconds = [], []
    for start in range(0, len(features["user_categorical"]), CHUNK):
        part = _part(features, start, CHUNK)
        values = ranker.score(part)
        scores.append(formula.scores(values, part["user_categorical"])[:, 0])
        seconds.append(values["expected_seconds"][:, 0])
    return np.concatenate(scores), np.concatenate(seconds)


def _request_milliseconds(
    rankers: Mapping[str, Ranker], features: Features, num_candidates: int
) -> dict[str, float]:
    """Return the median time of one request, the nets taking turns."""
    num_rows = len(features["user_categorical"])
    repeated = {
        name: values[np.arange(num_candidates) % num_rows] for name, values in features.items()
    }
    request = one_request(repeated)
    times: dict[str, list[float]] = {name: [] for name in rankers}
    for _ in range(NUM_TIMED):
        for name, ranker in rankers.items():
            started = time.perf_counter()
            ranker.score(request)
            times[name].append(time.perf_counter() - started)
    return {name: 1000 * float(np.median(taken)) for name, taken in times.items()}


def _examples(features: Features) -> list[dict[str, np.ndarray]]:
    num_rows = len(features["user_categorical"])
    starts = np.linspace(0, max(num_rows - EXAMPLE_ROWS, 0), NUM_EXAMPLES).astype(int)
    return [_part(features, start, EXAMPLE_ROWS) for start in np.unique(starts).tolist()]


def _part(features: Features, start: int, length: int) -> dict[str, np.ndarray]:
    return {name: values[start : start + length] for name, values in features.items()}


def _two_candidates(features: Features) -> dict[str, Any]:
    """Give each request its candidate twice."""
    return {
        name: values if is_of_user(name) else np.repeat(values, 2, axis=1)
        for name, values in features.items()
    }
