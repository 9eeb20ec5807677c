"""Train the ranking net on a prepared directory; write what a server needs to run it.

ranker.onnx          the net, seen to compute what Keras computes; or the same in integers
precision.json       with integers asked for: their speed and what they lose
calibration.json     factors on its expected seconds, fitted on the validation part
features.json        names and sizes of its inputs
heads.json           what its outputs mean
validation.json      metrics of the validation part, after calibration
curves.json, tensorboard/    how the training went
refit/               the same of the training that learned from the validation part too
member_2/ ...        the same of each further net of an ensemble
heads_solved.json    with a solver of the heads: what it did to the loss
unfinished/          checkpoints to go on from; the mapped rows while it runs
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pipelines.ranking_members import refit_members, train_members
from pipelines.ranking_precision import choose_precision
from pipelines.ranking_training import Validation
from recsys.artefacts import UNFINISHED
from recsys.core.training import TrainingHistory
from recsys.data.examples import ITEM_COUNTERS, TRAINING, VALIDATION
from recsys.data.prepared import Prepared, load_prepared
from recsys.ranking.ensemble import RankingEnsemble
from recsys.ranking.export import export_ranker
from recsys.ranking.formula import Formula
from recsys.ranking.items import ItemFeatures
from recsys.ranking.model import RankingModel
from recsys.ranking.ranker import CALIBRATION, GRAPH, HEADS, SPEC
from recsys.ranking.rows import RankingRows, map_rows
from recsys.ranking.spec import FeatureSpec, Priors, new_spec
from recsys.settings import RankingSettings, RecsysSettings


def main(settings: RecsysSettings, prepared: Path, out: Path) -> None:
    """Train, calibrate, export: everything is written into `out`.

    Raises:
        ConfigError: The formula of the score is of a surface that the log does not know.
        DataError: The log gives no impression to train on, or none to validate on.
        TrainingError: The training fails, or `out` holds the checkpoint of another one.
        ArtefactError: The exported net does not compute what Keras computes.
    """
    log = load_prepared(prepared)
    Formula(settings.ranking, log.vocabularies)  # tells of a wrong one before the training
    items = ItemFeatures.build(log.catalogue, log.vocabularies, settings.ranking)
    spec = spec_of(log, items, settings.ranking)
    with mapped_rows(log, items, spec, out / UNFINISHED / "rows") as rows:
        model, histories = train_members(rows, spec, settings.ranking, out, seed=settings.seed)
        validation = Validation(model, rows)
        calibration = validation.calibration()
        metrics = validation.metrics(calibration)
        if settings.ranking.refit:
            before = _training_seconds(model, rows)
            num_epochs = [history.best_epoch + 1 for history in histories]
            model = refit_members(rows, spec, settings.ranking, out, num_epochs, seed=settings.seed)
            # Rows that were learned from would flatter: the factors are those of rows held out,
            # moved by as much as the level of the two trainings differs where both have learned.
            calibration = calibration.scaled(before / _training_seconds(model, rows))
        export_ranker(model, validation.inputs, out / GRAPH)
        spec.save(out / SPEC)
        model.heads.save(out / HEADS)
        calibration.save(out / CALIBRATION)
        if settings.ranking.precision != "float32":
            choose_precision(settings, log.vocabularies, rows, validation.chosen, out)
    write_validation(metrics, histories[0], out / "validation.json")


def spec_of(log: Prepared, items: ItemFeatures, settings: RankingSettings) -> FeatureSpec:
    """Describe the inputs that the settings and the log give."""
    total = dict(zip(ITEM_COUNTERS, log.item_counters.sum(axis=0).tolist(), strict=True))
    outcomes = max(total["outcomes"], 1)
    has_retrieval = any(
        bool((~np.isnan(shard.ranking.retrieval_score[shard.ranking.split == TRAINING])).any())
        for shard in log.shards
    )
    return new_spec(
        settings,
        log.vocabularies,
        items,
        num_item_codes=log.catalogue.num_trained + 1,
        retrieval_trained=has_retrieval,
        priors=Priors(
            watch_rate=total["watches"] / max(total["impressions"], 1),
            mean_watch_seconds=total["watch_ms"] / outcomes / 1000,
            click_rate=total["clicks"] / outcomes,
        ),
    )


@contextlib.contextmanager
def mapped_rows(
    log: Prepared, items: ItemFeatures, spec: FeatureSpec, scratch: Path
) -> Iterator[RankingRows]:
    """Map the training and validation rows for the time of the block.

    Args:
        log: The prepared log.
        items: Its items.
        spec: The inputs.
        scratch: Directory of the rows.
    """
    with scratch_directory(scratch) as directory:
        yield map_rows(log, items, spec, (TRAINING, VALIDATION), directory)


@contextlib.contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory for the time of the block.

    A killed step leaves a full one, which is emptied here: a name drawn anew each time would leave
    what every kill left behind.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _training_seconds(model: RankingModel | RankingEnsemble, rows: RankingRows) -> float:
    """Return the sum of the seconds that a net expects of the training rows."""
    expected = Validation(model, rows, TRAINING).expected_seconds()
    return float(expected.sum(dtype=np.float64))


def write_validation(metrics: Mapping[str, float], history: TrainingHistory, path: Path) -> None:
    """Write the metrics of the validation part, and which epoch they are of."""
    content = {**metrics, "best_epoch": history.best_epoch, "stop": history.stop}
    path.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n", encoding="utf-8")
