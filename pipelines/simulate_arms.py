"""The arms of a simulation: bundles of one synthetic world, made anew from what they lived through.

An arm that learns has a run of its own for each time it does: the log before the simulation, then
the days of this arm, as files of the data contract that `recsys run` reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import run
from pipelines.config import override_settings, to_override
from pipelines.paths import RunPaths
from recsys.artefacts import MANIFEST
from recsys.bundle import Bundle, read_settings
from recsys.data.schema import TIME
from recsys.data.sources import synthetic
from recsys.data.sources.world import DAY_US, World
from recsys.errors import ArtefactError, ComparisonError
from recsys.recommender import Recommender
from recsys.settings import RecsysSettings
from recsys.simulation.arrivals import NOTHING, Arrivals
from recsys.simulation.site import Day

STEPS = ("prepared", "candidates", "index", "ranking", "exploration", "bundle")
"""Of a run, what a new bundle needs."""
POLICY = "simulated"


@dataclass(frozen=True)
class Side:
    """One bundle of a simulation.

    Args:
        name: "A" or "B".
        run: Directory of the run that made it, or just the one that holds it.
        bundle: Directory of the bundle.
        settings: As the bundle tells them.
    """

    name: str
    run: Path
    bundle: Path
    settings: RecsysSettings

    @classmethod
    def open(cls, name: str, path: Path) -> "Side":
        """Find the bundle at a path: the bundle itself, or the run it belongs to.

        Raises:
            ArtefactError: There is none.
        """
        inside = RunPaths(path).bundle
        bundle = inside if (inside / MANIFEST).is_file() else path
        if not (bundle / MANIFEST).is_file():
            raise ArtefactError(
                f"{path}: expected a bundle or the directory of a run, found neither "
                f"{bundle / MANIFEST} nor {inside / MANIFEST}; make one with `recsys run`"
            )
        return cls(name, bundle.parent, bundle, read_settings(bundle))

    def recommender(self) -> Recommender:
        """Load the bundle."""
        return Recommender(Bundle.load(self.bundle))


def common_world(sides: Sequence[Side]) -> World:
    """Return the world that all bundles were made in.

    Raises:
        ComparisonError: One was not made in the synthetic world, or they were in different ones.
    """
    for side in sides:
        if side.settings.data.source != "synthetic":
            raise ComparisonError(
                f"{side.bundle}: expected a bundle made of the synthetic source, whose hidden "
                f"truth says what users would have done, got one of '{side.settings.data.source}'; "
                f"`recsys compare` holds bundles of any log against each other"
            )
    first, second = ((side.settings.data.options, side.settings.seed) for side in sides)
    if first != second:
        raise ComparisonError(
            f"expected two bundles of one world, got data.options and seed {first} and {second}; "
            f"make both from the same"
        )
    return synthetic.world_of(sides[0].settings.data, sides[0].settings.seed)


class ArmLog:
    """The log of one arm on disk, from the beginning of the world on.

    Args:
        directory: Made; what it holds is replaced.
        settings: Of the bundle, which say what the log before the simulation was.
        world: The world.
        arrivals: Of the simulation.
    """

    def __init__(
        self, directory: Path, settings: RecsysSettings, world: World, arrivals: Arrivals
    ) -> None:
        self.directory = directory
        self._world, self._arrivals = world, arrivals
        for name in ("events", "searches"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        log = synthetic.read(settings.data, settings.seed)
        until = pa.scalar(arrivals.span.start_us).cast(TIME)
        before = pa.concat_tables(log.events())
        searched = pa.concat_tables(log.searches())
        pq.write_table(_before(before, until), directory / "events" / "before.parquet")
        pq.write_table(_before(searched, until), directory / "searches" / "before.parquet")
        pq.write_table(synthetic.item_table(world), directory / "items.parquet")
        pq.write_table(synthetic.user_table(world), directory / "users.parquet")

    def write(self, number: int, day: Day) -> None:
        """Add a day."""
        arrivals, name = self._arrivals, f"day-{number:03}.parquet"
        find = arrivals.find[day.rows]
        finds = arrivals.finds.take(find[find != NOTHING])
        shown = synthetic.shown_table(self._world, arrivals.sessions, day.pages, policy=POLICY)
        found = synthetic.found_table(self._world, arrivals.sessions, finds)
        pq.write_table(pa.concat_tables([shown, found]), self.directory / "events" / name)
        searches = synthetic.search_table(arrivals.sessions, finds)
        pq.write_table(searches, self.directory / "searches" / name)


def learn(
    side: Side, log: ArmLog, out: Path, until_us: int, announce: Callable[[str], None]
) -> Side:
    """Make a bundle of a log as of a moment, going on with the side's candidate net if it is there.

    Args:
        side: The one before.
        log: Of its arm.
        out: Directory of the new run.
        until_us: Nothing later is known; the day before it is the validation part.
        announce: Takes a line for the user.
    """
    settings = learning_settings(side, log.directory, until_us)
    for step in STEPS:
        run.run_one(step, settings, out, announce=announce)
    return Side(side.name, out, RunPaths(out).bundle, settings)


def learning_settings(side: Side, log: Path, until_us: int) -> RecsysSettings:
    """Return the settings of a side's next run."""
    tables = {"events": "events", "searches": "searches"}
    tables |= {"items": "items.parquet", "users": "users.parquet"}
    changes: dict[str, object] = {
        "data.source": "table",
        "data.path": str(log),
        "data.options": tables,
        "split.kind": "time",
        "split.validation_from": _iso(until_us - DAY_US),
        "split.test_from": _iso(until_us),
    }
    if side.settings.split.test_until is not None:
        changes["split.test_until"] = _iso(until_us + DAY_US)
    if RunPaths(side.run).candidates.is_dir():
        changes["candidates.warm_start"] = str(side.run)
    overrides = [to_override(name, value) for name, value in changes.items()]
    return override_settings(side.settings, overrides)


def _before(table: pa.Table, until: pa.Scalar) -> pa.Table:
    return table.filter(pc.less(table["event_time"], until))


def _iso(time_us: int) -> str:
    return str(np.datetime64(time_us, "us").astype("datetime64[s]"))
