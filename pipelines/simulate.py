"""Two bundles in the synthetic world, online: what users would really have watched.

Each arm has a world of its own, with the same users at the same moments under the same chance, who
live through it from page to page; so the hidden truth says exactly what B changes. An A/B test
divides those users by a hash and sees of each only the arm that it assigns: what the test says can
be held against what is true.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluate import finite
from pipelines.paths import RunPaths
from pipelines.simulate_arms import ArmLog, Side, common_world, learn
from pipelines.simulate_figures import Lived, figures_of
from pipelines.simulate_log import Judged, estimates, judge
from recsys.data.sources import synthetic
from recsys.data.sources.world import DAY_US, World
from recsys.errors import ComparisonError
from recsys.evaluation.simulation_report import write_simulation_report
from recsys.progress import progress
from recsys.settings import SimulationSettings
from recsys.simulation.arrivals import Arrivals, Span, draw_arrivals
from recsys.simulation.ledger import Ledger
from recsys.simulation.site import Day, Site
from recsys.state import EVENT_DTYPES, UserEvents, UserState
from recsys.state_files import find_states

NAMES = ("A", "B")
Announce = Callable[[str], None]


def main(
    directories: Sequence[Path],
    out: Path,
    settings: SimulationSettings,
    announce: Announce = print,
) -> dict[str, Any]:
    """Simulate two bundles; write `simulation.json` and `simulation.html` into `out`.

    Args:
        directories: Of bundles A and B, or of the runs that made them.
        out: Made if absent; has the arms' logs and runs too, where they learn.
        settings: How long, for how many, whether they learn.
        announce: Takes a line for the user.

    Returns:
        The figures, as `recsys.evaluation.simulation_report` describes them.

    Raises:
        ArtefactError: A bundle or its users' states cannot be read.
        ComparisonError: The bundles are not of one synthetic world.
    """
    sides = [Side.open(name, path) for name, path in zip(NAMES, directories, strict=True)]
    world = common_world(sides)
    out.mkdir(parents=True, exist_ok=True)
    figures = finite(_simulate(sides, world, out, settings, announce))
    text = json.dumps(figures, indent=1, allow_nan=False, ensure_ascii=False)
    (out / "simulation.json").write_text(text + "\n", encoding="utf-8")
    write_simulation_report(out / "simulation.html", figures)
    return figures


class _ArmRun:
    """One arm on its way through the days."""

    def __init__(
        self,
        side: Side,
        world: World,
        arrivals: Arrivals,
        states: dict[int, UserState],
        *,
        seed: int,
        log: ArmLog | None,
    ) -> None:
        self.side, self.log = side, log
        self.recommender = side.recommender()
        # Only those before: what the bundle has counted itself it does not count again.
        self.recommender.count_events(_all_events(states))
        label = side.settings.data.watch.column
        self.site = Site(world, arrivals, states, seed=seed, label=label)
        self.ledger = Ledger(arrivals, len(states), world.num_items)
        self.bundle_ids = [self.recommender.bundle_id]

    @property
    def draws(self) -> bool:
        """Whether the arm's orders are drawn, so that its log has propensities."""
        return self.side.settings.serving.exploration.policy != "greedy"

    def live(self, number: int) -> Day:
        """Let a day pass."""
        day = self.site.live(number, self.recommender)
        self.ledger.note(number, day)
        if self.log is not None:
            self.log.write(number, day)
        return day

    def learn(self, number: int, span: Span, out: Path, announce: Announce) -> None:
        """Make the bundle anew after a day."""
        if self.log is None:
            return
        run = out / f"{self.side.name}-day-{number + 1:03}"
        until_us = span.start_us + (number + 1) * DAY_US
        self.side = learn(self.side, self.log, run, until_us, announce)
        self.recommender = self.side.recommender()
        self.bundle_ids.append(self.recommender.bundle_id)


def _simulate(
    sides: Sequence[Side],
    world: World,
    out: Path,
    settings: SimulationSettings,
    announce: Announce,
) -> dict[str, Any]:
    later = max(sides, key=lambda side: side.recommender().data_until)
    span = Span(later.recommender().data_until, settings.days)
    number = _num_users(world, settings)
    arrivals = draw_arrivals(
        world,
        np.arange(number),
        span,
        sessions_per_day=_sessions_per_day(sides[0], world),
        seed=settings.seed,
    )
    states = users_states(RunPaths(later.run).state, world, number)
    arms = [
        _ArmRun(
            side,
            world,
            arrivals,
            states,
            seed=settings.seed,
            log=ArmLog(out / "logs" / side.name, side.settings, world, arrivals)
            if settings.retrain_days
            else None,
        )
        for side in sides
    ]
    judged = _live(arms, arrivals, out, settings, announce)
    lived = Lived(
        world=world,
        span=span,
        users=[f"u{user}" for user in range(number)],
        before_seconds=_seconds_before(states, span),
        ledgers={arm.side.name: arm.ledger for arm in arms},
    )
    return {
        **figures_of(lived, settings),
        "sides": {side.name: _side(side, arm) for side, arm in zip(sides, arms, strict=True)},
        "off_policy": {
            name: estimates(parts, rounds=settings.bootstrap_rounds, seed=settings.seed)
            for name, parts in judged.items()
            if parts
        },
        "settings": settings.model_dump(mode="json"),
    }


def _live(
    arms: Sequence[_ArmRun],
    arrivals: Arrivals,
    out: Path,
    settings: SimulationSettings,
    announce: Announce,
) -> dict[str, list[Judged]]:
    """Let all days pass; return what the log of each arm that draws says of the other."""
    judged: dict[str, list[Judged]] = {other.side.name: [] for other in arms[::-1]}
    span = arrivals.span
    with progress("days of both arms", 2 * span.num_days) as task:
        for number in range(span.num_days):
            for arm, other in (arms, arms[::-1]):
                day = arm.live(number)
                if arm.draws and other.recommender.bundle.ranker is not None:
                    # As the other stands on that day: before either learns from it.
                    part = judge(arm.site, arrivals, day, other.recommender)
                    judged[other.side.name].append(part)
                task.advance(1)
            is_last = number + 1 == span.num_days
            if settings.retrain_days and not is_last and (number + 1) % settings.retrain_days == 0:
                for arm in arms:
                    arm.learn(number, span, out / "runs", announce)
    return judged


def users_states(directory: Path, world: World, number: int) -> dict[int, UserState]:
    """Return what is known of the first users of a world; of some it may be who they are alone.

    Args:
        directory: Written by `recsys run` beside the bundle.
        world: Whose users.
        number: How many.
    """
    ids = [f"u{user}" for user in range(number)]
    known = find_states(directory, ids)
    table = synthetic.user_table(world).slice(0, number).to_pylist()
    new = (
        {name: value for name, value in row.items() if name != "user_id" and value is not None}
        for row in table
    )
    return {
        user: known.get(user_id) or UserState(user_id, attributes=attributes)
        for user, (user_id, attributes) in enumerate(zip(ids, new, strict=True))
    }


def _num_users(world: World, settings: SimulationSettings) -> int:
    number = settings.users or world.num_users
    if number > world.num_users:
        raise ComparisonError(
            f"users: expected at most the {world.num_users:,} of the world, got {number:,}; ask "
            f"for fewer, or make bundles of a larger world (data.options.users)"
        )
    return number


def _sessions_per_day(side: Side, world: World) -> float:
    num_days = (world.end_us - world.start_us) // DAY_US
    return synthetic.mean_sessions(side.settings.data, world) / num_days


def _seconds_before(states: dict[int, UserState], span: Span) -> np.ndarray:
    """Return what users watched of impressions in as many days before: float64 [U]."""
    since = span.start_us - span.num_days * DAY_US
    seconds = np.zeros(len(states))
    for user, state in states.items():
        events = state.events
        own = (events.moment >= since) & events.is_impression & (events.watch_ms > 0)
        seconds[user] = events.watch_ms[own].sum() / 1000
    return seconds


def _all_events(states: dict[int, UserState]) -> UserEvents:
    parts = [state.events for state in states.values()]
    return UserEvents(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in EVENT_DTYPES}
    )


def _side(side: Side, arm: _ArmRun) -> dict[str, Any]:
    pages = int(arm.ledger.num_pages.sum())
    return {
        "name": side.settings.name,
        "bundle_ids": arm.bundle_ids,
        "policy": side.settings.serving.exploration.policy,
        "pages": pages,
        "degraded": int(arm.ledger.num_degraded.sum()),
    }
