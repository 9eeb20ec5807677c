"""The small synthetic log of pipelines/configs/research, and results on it that are kept."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.candidates import CONFIGS
from benchmarks.ranking_kuairand import prepare_once
from pipelines import train_ranking
from pipelines.config import load_settings
from recsys.artefacts import hash_json
from recsys.data.prepared import Prepared
from recsys.ranking.items import ItemFeatures
from recsys.ranking.rows import RankingRows
from recsys.ranking.spec import FeatureSpec

RESEARCH = CONFIGS / "research"
Result = dict[str, Any]


@dataclass(frozen=True)
class World:
    """The log that all nets here are trained on.

    Args:
        log, prepared: And where it lies.
        rows, spec: Of the ranking net.
        place: For trainings.
    """

    log: Prepared
    prepared: Path
    rows: RankingRows
    spec: FeatureSpec
    place: Path


@contextmanager
def open_world(place: Path) -> Iterator[World]:
    """Prepare the log below a directory, unless it is there, and map its rows."""
    settings = load_settings(RESEARCH / "plain.toml")
    log, prepared = prepare_once(settings, place)
    items = ItemFeatures.build(log.catalogue, log.vocabularies, settings.ranking)
    spec = train_ranking.spec_of(log, items, settings.ranking)
    with train_ranking.mapped_rows(log, items, spec, place / "rows") as rows:
        yield World(log, prepared, rows, spec, place)


def once(world: World, what: Any, work: Callable[[Path], Result]) -> Result:
    """Do the work in a directory of its own, unless its result is there.

    Args:
        world: Whose place is used.
        what: Names the work: all that its result depends on.
        work: Takes the directory.
    """
    directory = world.place / hash_json([world.prepared.name, what])[:16]
    result = directory / "result.json"
    if not result.exists():
        directory.mkdir(parents=True, exist_ok=True)
        found = work(directory)
        result.write_text(json.dumps(found) + "\n")
    return json.loads(result.read_text())
