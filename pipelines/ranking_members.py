"""The nets of the ranking stage: one, or several as an ensemble; their heads solved for, if asked.

The first net of an ensemble is the one that there would be without: same seed, same rows. The
others have seeds of their own, and where the ensemble is bagged, as many training rows drawn with
replacement (Breiman 1996, Bagging Predictors).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.ranking_training import (
    Validation,
    model_and_batches,
    refit,
    rows_of,
    train_model,
)
from recsys.core.checkpoint import read_variables, write_variables
from recsys.core.optimizers.full_batch import Method, minimize
from recsys.core.random import stream, stream_seed
from recsys.core.training import TrainingHistory
from recsys.data.examples import TRAINING
from recsys.ranking.batches import RankingBatches
from recsys.ranking.ensemble import RankingEnsemble
from recsys.ranking.model import RankingModel
from recsys.ranking.rows import RankingRows
from recsys.ranking.spec import FeatureSpec
from recsys.settings import RankingSettings

SOLVED = "heads_solved.json"


def train_members(
    rows: RankingRows, spec: FeatureSpec, settings: RankingSettings, out: Path, *, seed: int
) -> tuple[RankingModel | RankingEnsemble, list[TrainingHistory]]:
    """Train every net, each in a directory of its own, the first in `out`.

    Returns:
        The net, or the ensemble of all, and what the training of each did.
    """
    nets, histories = [], []
    for number in range(settings.ensemble):
        own = out if number == 0 else out / f"member_{number + 1}"
        own.mkdir(exist_ok=True)
        drawn = _bag(rows, number, seed) if settings.ensemble_bagged and number else None
        own_seed = _seed(seed, number)
        net, history = train_model(rows, spec, settings, own, seed=own_seed, drawn=drawn)
        if (method := settings.head_solver) != "none":
            chosen = rows_of(rows, TRAINING, "training")
            _, batches = model_and_batches(rows, chosen, spec, settings, own_seed, drawn=drawn)
            solve_heads(net, batches, Validation(net, rows).metrics, own, method)
        nets.append(net)
        histories.append(history)
    return _joined(nets), histories


def refit_members(
    rows: RankingRows,
    spec: FeatureSpec,
    settings: RankingSettings,
    out: Path,
    num_epochs: Sequence[int],
    *,
    seed: int,
) -> RankingModel | RankingEnsemble:
    """Train every net anew on training and validation rows, each for its number of epochs."""
    nets = []
    for number, epochs in enumerate(num_epochs):
        own = out / ("refit" if number == 0 else f"refit_{number + 1}")
        nets.append(refit(rows, spec, settings, own, epochs, _seed(seed, number)))
    return _joined(nets)


def solve_heads(
    net: RankingModel,
    batches: RankingBatches,
    validate: Callable[[], dict[str, float]],
    directory: Path,
    method: Method,
) -> None:
    """Solve for the last layer over all training rows, the trunk as it is.

    What comes out is kept if the validation is better by it. `heads_solved.json` has both.
    """
    settings = net.settings
    variables = [each for dense in net.head_outputs.values() for each in dense.trainable_variables]
    before, trained = validate(), list(read_variables(variables))
    found = minimize(
        partial(net.loss_of, training=False),
        variables,
        partial(batches, 0),
        method=method,
        max_iterations=settings.head_iterations,
        penalty=settings.head_penalty,
    )
    after, monitor = validate(), settings.validation_metric
    sign = 1 if settings.larger_is_better else -1
    is_kept = sign * after[monitor] > sign * before[monitor]
    if not is_kept:
        write_variables(variables, trained)
    told = {**asdict(found), "before": before, "after": after, "is_kept": is_kept}
    (directory / SOLVED).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _joined(nets: list[RankingModel]) -> RankingModel | RankingEnsemble:
    return nets[0] if len(nets) == 1 else RankingEnsemble(nets)


def _seed(seed: int, number: int) -> int:
    return stream_seed(seed, "ranking_member", number) if number else seed


def _bag(rows: RankingRows, number: int, seed: int) -> np.ndarray:
    """Draw as many training rows as there are, with replacement: int64 [n], sorted."""
    chosen = rows_of(rows, TRAINING, "training")
    return np.sort(stream(seed, "bag", number).choice(chosen, len(chosen)))
