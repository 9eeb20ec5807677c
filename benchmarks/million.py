"""A run with a million items, for `benchmarks.serving --case million`: log, nets, index, bundle.

The log is of the world of interests of `benchmarks.ann_vectors`: users with a few clusters of items
each, and, so that every item has a trained row, users who between them watch each item once. The
nets are those of the comparison that servers are held against: 64-dimensional vectors, 300
candidates, about 512 inputs (300 of them the user's) through 1024, 512 and 256 units. Trained for
minutes, not to the end: what they answer is not measured, how long it takes is.

    python -m benchmarks.million OUT [--items 1000000] [--peers]
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ann_vectors import CLUSTER_ITEMS, HISTORY, World
from pipelines.environment import set_up
from pipelines.run import STEPS, run_one
from recsys.core.random import stream
from recsys.settings import RecsysSettings

ITEMS_PER_USER = 50
"""Catalogue items for one user of the world, beside those who cover the catalogue."""
NUM_SKIPPED = 10
"""Impressions of a user that came to nothing."""
HOUR_US = 3_600_000_000
FIRST_US = 1_767_225_600_000_000
"""2026-01-01."""
VALIDATION_FROM = "2026-01-10"


def main() -> None:
    """Write the log, run every step up to the bundle and the users' state."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path, help="directory of the run")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--peers", action="store_true", help="also the nets of the peers' servers")
    arguments = parser.parse_args()
    set_up()
    settings = make_run(arguments.out, arguments.items)
    if arguments.peers:
        from benchmarks.peers.serving_nets import save_nets

        save_nets(settings, arguments.out, arguments.out / "nets")


def make_run(out: Path, num_items: int) -> RecsysSettings:
    """Make what is not there yet; return the settings of the run."""
    log = out / "log"
    if not log.exists():
        _write_log(log, num_items)
    settings = settings_of(log)
    for step in STEPS:
        if step != "evaluation":
            run_one(step, settings, out)
    return settings


def settings_of(log: Path) -> RecsysSettings:
    """Return the configuration of the run."""
    return RecsysSettings.model_validate(
        {
            "name": "million",
            "data": {
                "source": "table",
                "path": str(log),
                "options": {"events": "events.parquet", "items": "items.parquet"},
            },
            "split": {
                "kind": "time",
                "validation_from": VALIDATION_FROM,
                "test_from": "2026-01-11",
            },
            "candidates": {
                "windows": (50,),
                "embedding_width": 64,
                "tower": (256,),
                "loss": "sampled_softmax",
                "negatives": {"uniform": 4096},
                "validation_users": 200,
                "max_positions_per_user": 16,
                "training": {
                    "batch_size": 64,
                    "max_epochs": 1,
                    "table_optimizer": "row_adagrad",
                    "table_learning_rate": 0.1,
                },
            },
            "ranking": {
                "user_categorical": ("surface", "country", "device", "language"),
                "item_categorical": ("topics", "language"),
                "recent_length": 0,
                "cross_layers": 0,
                "hidden": (1024, 512, 256),
                "embedding_scale": 6.0,
                "num_quantiles": 20,
                "max_embedding_width": 64,
                "precision": "int8",
                "training": {
                    "batch_size": 1024,
                    "max_epochs": 1,
                    "table_optimizer": "row_adagrad",
                    "table_learning_rate": 0.1,
                    "max_seconds": 90,
                },
            },
            "index": {"recall_floor": 0.9},
        }
    )


def _write_log(log: Path, num_items: int) -> None:
    scratch = log.with_name(".log")
    scratch.mkdir(parents=True, exist_ok=True)
    pq.write_table(_items(num_items), scratch / "items.parquet")
    pq.write_table(_events(num_items), scratch / "events.parquet")
    scratch.rename(log)


def _items(num_items: int) -> pa.Table:
    rng = stream(0, "million_items")
    cluster = np.arange(num_items) // CLUSTER_ITEMS
    return pa.table(
        {
            "item_id": _ids("i", np.arange(num_items)),
            "channel_id": _ids("c", cluster),
            "topics": pa.ListArray.from_arrays(
                np.arange(num_items + 1, dtype=np.int32), _ids("t", cluster % 500)
            ),
            "language": _ids("l", cluster % 20),
            "duration_ms": rng.integers(10_000, 600_000, num_items),
            "upload_time": _times(FIRST_US - rng.integers(1, 24 * 90, num_items) * HOUR_US),
        }
    )


def _events(num_items: int) -> pa.Table:
    """Return watches of interest, watches that cover the catalogue, and impressions of neither."""
    rng = stream(0, "million_events")
    world = World(num_items)
    interested = world.watches(num_items // ITEMS_PER_USER, rng)
    length = HISTORY + 1
    padded = np.arange(-(-num_items // length) * length) % num_items
    watched = np.concatenate([interested, rng.permuted(padded.reshape(-1, length), axis=1)])
    skipped = rng.integers(0, num_items, (len(watched), NUM_SKIPPED))
    items = np.concatenate([watched, skipped], axis=1)
    watch_ms = np.zeros(items.shape, np.int64)
    watch_ms[:, :length] = rng.gamma(1.5, 30_000, watched.shape).astype(np.int64) + 1
    num_users, per_user = items.shape
    minutes = np.sort(rng.integers(0, 10 * 24 * 60, (num_users, per_user)), axis=1)
    mixed = rng.permuted(np.broadcast_to(np.arange(per_user), items.shape), axis=1)
    user = np.repeat(np.arange(num_users), per_user)
    return pa.table(
        {
            "user_id": _ids("u", user),
            "item_id": _ids("i", np.take_along_axis(items, mixed, axis=1).ravel()),
            "event_time": _times(FIRST_US + minutes.ravel() * (HOUR_US // 60)),
            "watch_ms": np.take_along_axis(watch_ms, mixed, axis=1).ravel(),
            "surface": _ids("s", rng.integers(0, 3, len(user))),
            "country": _ids("k", user % 50),
            "device": _ids("d", user % 5),
            "language": _ids("l", user % 20),
        }
    )


def _ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pa.array(np.char.add(prefix, numbers.astype(str)))


def _times(microseconds: np.ndarray) -> pa.Array:
    return pa.array(microseconds, pa.timestamp("us", "UTC"))


if __name__ == "__main__":
    main()
