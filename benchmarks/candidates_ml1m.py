"""Candidate stage on MovieLens-1M: how often the next watch is among the first k of all items.

Protocol P1: leave-one-out of 6,040 users. The last watch of each is the test, the one before it
the validation (early stopping only; the net learns from neither), and the history known at the
test holds the validation watch. Full ranking of all 3,416 items, no sampled metrics; a tie counts
against the target. `_filtered` leaves out what the user has watched, `_unfiltered` does not.

    python -m benchmarks.candidates_ml1m [--data DIR] [--windows 50] [--seeds 0,1,2] [--json]

`--windows 50` is the bag of the 2016 paper, with the settings that suit it
(pipelines/configs/ml1m_2016.toml); everything else runs with those of ml1m.toml, unless
`--set candidates.KEY=VALUE` says otherwise. Figures are means over the seeds; popularity
is ranked beside them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.output import print_result
from benchmarks.real_logs import find_logs
from pipelines.config import load_settings
from pipelines.prepare import prepare
from pipelines.train_candidates import new_model, train_model
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.vectors import BulkTower, Inputs, ValidationRanking
from recsys.data.examples import TEST
from recsys.data.prepared import Prepared, load_prepared
from recsys.data.sources import open_log
from recsys.errors import DataError
from recsys.settings import RecsysSettings

CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"
NUM_USERS, NUM_ITEMS, NUM_EVENTS = 6040, 3416, 999_611
PROTOCOL = "ML-1M P1: leave-one-out, full ranking over 3,416 items, ties against the target"


def main() -> None:
    """Prepare, train once a seed, test, print."""
    started = time.monotonic()
    arguments = _parse_arguments()
    settings = _settings(arguments)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        log = _prepared(settings, Path(scratch) / "prepared")
        runs = [_figures_of_seed(log, settings, seed, Path(scratch)) for seed in seeds]
        figures = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        figures |= _figures(log, settings, *_popularity(log), prefix="popularity/")
    print_result(
        figures,
        as_json=arguments.json,
        started=started,
        protocol=PROTOCOL,
        encoder=arguments.encoder,
        windows=list(settings.candidates.windows),
        seeds=seeds,
        by_seed=runs,
        rows={"users": NUM_USERS, "items": NUM_ITEMS, "events": NUM_EVENTS},
    )


def _settings(arguments: argparse.Namespace) -> RecsysSettings:
    overrides = [
        f"data.path={find_logs(arguments.data) / 'ml-1m'}",
        f"candidates.encoder={arguments.encoder}",
        f"candidates.windows=[{arguments.windows}]",
        "candidates.training.tensorboard=false",
    ]
    name = "ml1m_2016.toml" if arguments.windows == "50" else "ml1m.toml"
    return load_settings(CONFIGS / name, [*overrides, *arguments.set])


def _prepared(settings: RecsysSettings, directory: Path) -> Prepared:
    """Prepare the log, and see that it has the rows of the protocol.

    Raises:
        DataError: It has not.
    """
    directory.mkdir()
    prepare(open_log(settings.data, settings.seed), settings, directory)
    log = load_prepared(directory)
    item = np.concatenate([shard.timelines.item for shard in log.shards])
    users = sum(len(shard.user_ids) for shard in log.shards)
    found = (users, len(np.unique(item)), len(item))
    if found != (NUM_USERS, NUM_ITEMS, NUM_EVENTS):
        raise DataError(
            f"{settings.data.path}: expected {NUM_USERS:,} users, {NUM_ITEMS:,} items and "
            f"{NUM_EVENTS:,} events (items of 5 or more), got {found}"
        )
    return log


def _figures_of_seed(
    log: Prepared, settings: RecsysSettings, seed: int, scratch: Path
) -> dict[str, float]:
    model = new_model(log, settings.candidates, seed=seed)
    history, _ = train_model(model, log, scratch / f"seed{seed}", seed=seed)
    found = _figures(log, settings, BulkTower(model), model.item_vectors())
    validation = {f"validation_{name}": value for name, value in history.best_metrics.items()}
    return found | validation | {"epochs": float(len(history.epochs))}


def _figures(
    log: Prepared,
    settings: RecsysSettings,
    user_vectors: Callable[[Inputs], np.ndarray],
    item_vectors: np.ndarray,
    *,
    prefix: str = "",
) -> dict[str, float]:
    """Return the test metrics of vectors, seen items left out and not."""
    parts = [(shard.histories, shard.candidates) for shard in log.shards]
    labels = join_labels(
        parts,
        settings.candidates,
        split=TEST,
        num_trained=log.catalogue.num_trained,
        targets_only=True,
    )
    figures = {}
    for name, is_seen_filtered in (("unfiltered", False), ("filtered", True)):
        ranking = ValidationRanking(
            join_sequences(parts), labels, settings.candidates, is_seen_filtered=is_seen_filtered
        )
        metrics = ranking.metrics(user_vectors(ranking.inputs), item_vectors)
        figures |= {f"{prefix}{metric}_{name}": value for metric, value in metrics.items()}
    return figures


def _popularity(log: Prepared) -> tuple[Callable[[Inputs], np.ndarray], np.ndarray]:
    """Return vectors whose inner products are the training watches of items."""
    counts = np.asarray(log.catalogue.watch_counts[: log.catalogue.num_trained], np.float32)
    return lambda inputs: np.ones((len(inputs["history"]), 1, 1), np.float32), counts[:, None]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder that holds ml-1m/")
    parser.add_argument("--encoder", choices=["bag"], default="bag")
    parser.add_argument("--windows", default="1,3,10,20,50", help="newest watches averaged")
    parser.add_argument("--seeds", default="0", help="one training each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
