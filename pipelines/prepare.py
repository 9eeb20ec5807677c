"""The first step: a log becomes a prepared directory (see `recsys.data.prepared`)."""

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.processes import Processes, local_processes
from recsys.artefacts import hash_json, write_manifest
from recsys.data.catalogue import Catalogue
from recsys.data.examples import ITEM_COUNTERS
from recsys.data.intake import Intake, Rejects, take_in
from recsys.data.log import FileProblems, Log
from recsys.data.prepared import FORMAT, KIND
from recsys.data.schema import with_version
from recsys.data.shards import (
    BuiltShard,
    SortedShard,
    Workplace,
    build_shard,
    sort_shard,
    total_counters_part,
)
from recsys.data.sources import open_log
from recsys.data.vocabularies import build_catalogue, build_vocabularies
from recsys.settings import RecsysSettings


def main(settings: RecsysSettings, out: Path) -> None:
    """Prepare the log that the settings name; see `prepare`."""
    prepare(open_log(settings.data, settings.seed), settings, out)


def prepare(log: Log, settings: RecsysSettings, out: Path) -> None:
    """Prepare a log.

    Memory is set by one batch, one shard and the catalogue, not by the length of the log.

    Args:
        log: Of any source.
        settings: Of the whole run.
        out: An empty directory, which the caller puts in place when this returns.

    Raises:
        ConfigError: The settings do not fit the log.
        DataError: Too many rows break the data contract, or a configured column is missing.
    """
    scratch = out / "scratch"
    scratch.mkdir(parents=True)
    intake = take_in(log, settings, scratch, Rejects(out / "rejected"))
    for file, reason in log.problems.bad_files.items():
        print(f"warning: {file}: {reason}; the rest of the log is used", file=sys.stderr)
    pq.write_table(with_version(intake.users), out / "users.parquet")
    pq.write_table(intake.items, scratch / "items.parquet")
    place = Workplace(out, scratch, settings, intake.cuts)
    with local_processes(min(settings.data.processes, settings.data.shards)) as processes:
        shards = _sort_shards(place, intake, processes)
        catalogue = _decide_rows(place, intake, shards)
        built = _build_shards(place, len(catalogue), processes)
    shutil.rmtree(scratch)
    statistics = _statistics(intake, shards, built, catalogue) | _problems(log.problems)
    # How many processes did the work changes nothing in it.
    kept = settings.model_dump(
        mode="json",
        include={"name", "seed", "data", "split"},
        exclude={"data": {"processes"}},
    )
    write_manifest(
        out,
        KIND,
        FORMAT,
        data_until=intake.cuts.data_until,
        settings=kept,
        data_hash=hash_json(kept["data"]),
        split_hash=hash_json(kept["split"]),
        statistics=statistics,
    )


def _sort_shards(place: Workplace, intake: Intake, processes: Processes) -> list[SortedShard]:
    numbers = range(place.settings.data.shards)
    shards = processes.map("sort users", partial(sort_shard, place), numbers)
    num_duplicates = sum(shard.num_duplicates for shard in shards)
    intake.tally.reject("events", "duplicate event", num_duplicates)
    intake.tally.check("events", place.settings.data)
    return shards


def _decide_rows(place: Workplace, intake: Intake, shards: list[SortedShard]) -> Catalogue:
    settings = place.settings
    items = [shard.counts.items for shard in shards]
    catalogue, item_events = build_catalogue(intake.items, items, settings.data)
    catalogue.save(place.out / "catalogue")
    values = [shard.counts.values for shard in shards]
    for name, vocabulary in build_vocabularies(values, catalogue, item_events, settings).items():
        vocabulary.save(place.out / "vocabularies" / name)
    return catalogue


def _build_shards(place: Workplace, num_items: int, processes: Processes) -> list[BuiltShard]:
    numbers = range(place.settings.data.shards)
    built = processes.map("build examples", partial(build_shard, place), numbers)
    totals = np.zeros((num_items, len(ITEM_COUNTERS)), np.int64)
    for path in (place.scratch / "totals").iterdir():
        totals += np.load(path, allow_pickle=False)
    np.save(place.out / "item_counters.npy", totals)
    if any(shard.num_impressions for shard in built):
        processes.map("count items", partial(total_counters_part, place), numbers)
    return built


def _statistics(
    intake: Intake, shards: list[SortedShard], built: list[BuiltShard], catalogue: Catalogue
) -> dict[str, Any]:
    tally = intake.tally
    sizes = np.sum([shard.split_sizes for shard in shards], axis=0).tolist()
    return {
        "rows": dict(tally.rows),
        "rejected": dict(tally.rejected),
        "odd": dict(tally.odd),
        "events": sum(shard.num_events for shard in shards),
        "events_by_split": dict(zip(("training", "validation", "test"), sizes, strict=True)),
        "watches": sum(shard.num_watches for shard in shards),
        "users": sum(shard.num_users for shard in shards),
        "items": len(catalogue),
        "trained_items": catalogue.num_trained,
        "candidate_labels": sum(shard.num_labels for shard in built),
        "ranking_examples": sum(shard.num_impressions for shard in built),
        "first_moment": intake.span[0],
        "last_moment": intake.span[1],
    }


def _problems(problems: FileProblems) -> dict[str, Any]:
    return {"bad_files": dict(problems.bad_files), "bad_lines": len(problems.bad_lines)}
