"""Assemble what the steps before wrote into the one directory that a server needs."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipelines.paths import RunPaths
from pipelines.steps import read_identity
from recsys.boosts import check_boosts
from recsys.bundle import NUM_POPULAR, write_bundle
from recsys.candidates.co_visits import count_co_visits
from recsys.core.onnx_weights import write_apart
from recsys.data.prepared import Prepared, load_prepared
from recsys.data.user_states import user_states
from recsys.errors import ConfigError
from recsys.ranking.items import ItemFeatures
from recsys.recent_watches import watch_weights
from recsys.settings import RecsysSettings, SourceSettings
from recsys.state import UserState
from recsys.state_files import state_to_json

NUM_WARMUP_USERS = 16
NUM_WARMUP_EVENTS = 100
RECENT_SHARE = 0.2
"""The fallback list counts the newest fifth of the known watches: what is popular lately."""


def main(settings: RecsysSettings, paths: RunPaths, out: Path) -> None:
    """Write the bundle into `out`.

    Raises:
        ConfigError: The log lacks what a candidate source or a boost of the settings needs.
    """
    prepared = load_prepared(paths.prepared)
    check_boosts(settings.serving.arrangement.boosts, prepared.catalogue)
    ranked = paths.ranking.exists()
    parts = {
        **{f"candidates/{path.name}": path for path in paths.candidates.glob("user_tower*.onnx")},
        "candidates/item_vectors.npy": paths.candidates / "item_vectors.npy",
        **{f"index/{path.name}": path for path in _plain_files(paths.index)},
    }
    if (successors := paths.candidates / "successors.npy").exists():
        parts["candidates/successors.npy"] = successors
    if ranked:
        parts |= {f"ranking/{name}": paths.ranking / name for name in RANKING_FILES}
    explored = ranked and settings.exploration.enabled
    if explored:
        parts |= {f"exploration/{name}": paths.exploration / name for name in EXPLORATION_FILES}
    steps = ["prepared", "candidates", "index"] + ["ranking"] * ranked + ["exploration"] * explored
    with TemporaryDirectory(prefix=".graphs.", dir=out.parent) as scratch:
        write_bundle(
            out,
            settings=settings,
            prepared=prepared,
            parts=_with_weights_apart(parts, Path(scratch)),
            item_features=ItemFeatures.build(
                prepared.catalogue, prepared.vocabularies, settings.ranking
            ),
            popular=popular_rows(prepared),
            sources=source_arrays(prepared, settings.serving.sources),
            warmup_users=[state_to_json(state) for state in _warmup_states(prepared)],
            parents={step: read_identity(paths.root / step) for step in steps},
            metrics=_validation_metrics(paths, steps),
        )


RANKING_FILES = ("ranker.onnx", "calibration.json", "features.json", "heads.json")
EXPLORATION_FILES = ("neural_process.onnx", "spread.json", "features.json")


def _with_weights_apart(parts: Mapping[str, Path], scratch: Path) -> dict[str, Path]:
    """Return the parts of a bundle, its graphs as servers load them: written into `scratch`."""
    found = dict(parts)
    for name, path in parts.items():
        if path.suffix == ".onnx":
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            written = write_apart(path, target)
            found |= {str(each.relative_to(scratch)): each for each in written}
    return found


def popular_rows(prepared: Prepared) -> np.ndarray:
    """Return the items most watched lately before data_until, best first: int32."""
    row, moment, _ = _known_watches(prepared)
    recent = moment >= np.quantile(moment, 1 - RECENT_SHARE) if len(moment) else moment > 0
    counts = np.bincount(row[recent], minlength=len(prepared.catalogue))
    best = np.argsort(-counts, kind="stable")[:NUM_POPULAR]
    return best.astype(np.int32)


def source_arrays(prepared: Prepared, settings: SourceSettings) -> dict[str, np.ndarray]:
    """Return what the candidate sources that are on need, by path below `sources/`.

    Raises:
        ConfigError: `recent_popularity` is on, and the log has watches without a time.
    """
    arrays: dict[str, np.ndarray] = {}
    if settings.co_visitation:
        co_visits = count_co_visits(
            (shard.histories for shard in prepared.shards),
            num_items=prepared.catalogue.num_trained,
            until=prepared.data_until,
        )
        arrays |= {f"co_visits/{name}": values for name, values in vars(co_visits).items()}
    if settings.recent_popularity:
        row, moment, has_time = _known_watches(prepared)
        if not has_time.all():
            raise ConfigError(
                "serving.sources.recent_popularity: expected a log in which every watch has a "
                "time, this one has watches of which it knows only the order; leave it out"
            )
        arrays["recent_watches"] = watch_weights(
            row,
            moment,
            num_items=len(prepared.catalogue),
            until=prepared.data_until,
            half_life_hours=settings.half_life_hours,
        )
    return arrays


def _known_watches(prepared: Prepared) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, moment and whether it is a time of all watches known at data_until: [W]."""
    parts = []
    for shard in prepared.shards:
        timelines = shard.timelines
        known = timelines.is_watch & (timelines.outcome_moment < prepared.data_until)
        known &= timelines.item >= 0
        columns = (timelines.item, timelines.outcome_moment, timelines.has_time)
        parts.append([values[known] for values in columns])
    row, moment, has_time = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, moment, has_time


def _warmup_states(prepared: Prepared) -> Iterator[UserState]:
    yield UserState("")
    for number, state in enumerate(user_states(prepared, prepared.shards[0])):
        if number == NUM_WARMUP_USERS:
            return
        known = state.as_of(prepared.data_until)
        yield replace(known, events=known.events.take(slice(-NUM_WARMUP_EVENTS, None)))


def _validation_metrics(paths: RunPaths, steps: Collection[str]) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "candidates": json.loads((paths.candidates / "model.json").read_text())["validation"],
        "index": json.loads((paths.index / "index.json").read_text()),
    }
    for step in ("ranking", "exploration"):
        if step in steps:
            metrics[step] = json.loads((paths.root / step / "validation.json").read_text())
    return metrics


def _plain_files(directory: Path) -> list[Path]:
    return sorted(
        path for path in directory.iterdir() if path.name not in ("step.json", "recall.json")
    )
