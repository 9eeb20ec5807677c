"""The figures of a simulation: what is true, what a test on users finds, what becomes of both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.data.sources.world import World
from recsys.experiment.analysis import Analysis, Assignment, MetricRows, analyse
from recsys.experiment.assignment import Split
from recsys.experiment.effect import Effect
from recsys.experiment.sequential import always_valid
from recsys.experiment.trend import Trend, effect_trend
from recsys.settings import SimulationSettings
from recsys.simulation.arrivals import Span
from recsys.simulation.ledger import Ledger, available_by_day

SHARES = {"A": 0.5, "B": 0.5}
ALPHA = 0.05


@dataclass(frozen=True)
class Lived:
    """What came of both arms; every user lived in both.

    Args:
        world: The world.
        span: Of the simulation.
        users: [U], external ids.
        before_seconds: float64 [U], watched in as many days before it.
        ledgers: Arm -> what came of it.
    """

    world: World
    span: Span
    users: list[str]
    before_seconds: np.ndarray
    ledgers: Mapping[str, Ledger]


def figures_of(lived: Lived, settings: SimulationSettings) -> dict[str, Any]:
    """Return all but sides and off-policy estimates, as the report describes them."""
    truth = _truth(lived)
    arms = Split(f"simulation-{settings.seed}", SHARES).arms_of(lived.users)
    looks = [_look(lived, arms, day, settings) for day in range(1, settings.days + 1)]
    for look, true in zip(looks, _true_so_far(lived), strict=True):
        look["true"] = true
        look["holds_truth"] = look["difference"][1] <= true <= look["difference"][2]
    test = looks[-1]
    return {
        "verdict": _verdict(truth, test),
        "protocol": _protocol(lived, settings),
        "users": len(lived.users),
        "days": settings.days,
        "truth": truth,
        "by_day": _by_day(lived),
        "test": test,
        "looks": looks,
        "trend": _trend(lived, arms),
        "catalogue": _catalogue(lived),
    }


def _truth(lived: Lived) -> dict[str, Any]:
    """Return seconds a user and day, expected and drawn, of all users in both worlds."""
    expected = {arm: float(one.expected_seconds.mean()) for arm, one in lived.ledgers.items()}
    watched = {arm: float(one.watched_seconds.mean()) for arm, one in lived.ledgers.items()}
    difference = expected["B"] - expected["A"]
    return {
        "expected": expected,
        "watched": watched,
        "difference": difference,
        "lift": difference / expected["A"] if expected["A"] else float("nan"),
    }


def _true_so_far(lived: Lived) -> list[float]:
    """Return the true difference, seconds a user and day, of the days up to each: [D]."""
    gain = lived.ledgers["B"].expected_seconds - lived.ledgers["A"].expected_seconds
    by_day = gain.mean(axis=0)
    return [float(value) for value in by_day.cumsum() / np.arange(1, len(by_day) + 1)]


def _by_day(lived: Lived) -> list[dict[str, float]]:
    days = {arm: one.expected_seconds.mean(axis=0) for arm, one in lived.ledgers.items()}
    return [
        {arm: float(values[day]) for arm, values in days.items()}
        for day in range(lived.span.num_days)
    ]


def _look(
    lived: Lived, arms: np.ndarray, num_days: int, settings: SimulationSettings
) -> dict[str, Any]:
    """Analyse the test after some of its days, in seconds a user and day."""
    users = np.array(lived.users)
    # The hash's arm of each user is the only one that a test would have seen.
    watched = _as_assigned(lived, arms)[:, :num_days].mean(axis=1)
    before = lived.before_seconds / lived.span.num_days
    found = analyse(
        Assignment.of(users, np.array(list(SHARES))[arms]),
        SHARES,
        MetricRows(users, watched),
        MetricRows(users, before),
        treatment="B",
        control="A",
        alpha=ALPHA,
    )
    sequential = always_valid(found.effect, len(users), tuned_for=len(users), alpha=ALPHA)
    return _spelled(found, sequential, num_days)


def _spelled(found: Analysis, sequential: Effect, num_days: int) -> dict[str, Any]:
    effect = found.effect
    return {
        "days": num_days,
        "num_users": found.num_users,
        "ratio_p_value": found.ratio_p_value,
        "A": float(effect.control),
        "B": float(effect.treatment),
        "difference": _bounds(effect.difference, effect.low, effect.high),
        "lift": _bounds(effect.lift, effect.lift_low, effect.lift_high),
        "p_value": float(effect.p_value),
        "variance_cut": float(effect.variance_cut),
        "always_valid": _bounds(sequential.difference, sequential.low, sequential.high),
    }


def _trend(lived: Lived, arms: np.ndarray) -> dict[str, Any] | None:
    """Return whether the test's effect changes with its days; None of a single day."""
    num_users, num_days = len(lived.users), lived.span.num_days
    if num_days < 2:
        return None
    found: Trend = effect_trend(
        _as_assigned(lived, arms).ravel(),
        np.tile(np.arange(num_days), num_users),
        np.repeat(arms == list(SHARES).index("B"), num_days),
        np.repeat(np.arange(num_users), num_days),
    )
    return {
        "slope": found.slope,
        "standard_error": found.standard_error,
        "p_value": found.p_value,
        "reading": found.reading,
    }


def _as_assigned(lived: Lived, arms: np.ndarray) -> np.ndarray:
    """Return what users watched in the arm that they are assigned to: float64 [U, D]."""
    both = np.stack([lived.ledgers[arm].watched_seconds for arm in SHARES])
    return both[arms, np.arange(len(lived.users))]


def _catalogue(lived: Lived) -> dict[str, dict[str, list[float]]]:
    is_there = available_by_day(
        lived.world.item_upload_us, lived.span.start_us, lived.span.num_days
    )
    return {
        "watched_share": {
            arm: one.watched_share(is_there).tolist() for arm, one in lived.ledgers.items()
        },
        "gini": {arm: one.concentration(is_there).tolist() for arm, one in lived.ledgers.items()},
    }


def _verdict(truth: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    low, high = test["difference"][1:]
    found = "finds no difference" if low <= 0 <= high else "finds B better" if low > 0 else ""
    found = found or "finds A better"
    return (
        f"In truth B changes {truth['expected']['A']:.1f} seconds a user and day by "
        f"{truth['difference']:+.2f} ({100 * truth['lift']:+.1f} %); a test on half of the users "
        f"each {found}."
    )


def _protocol(lived: Lived, settings: SimulationSettings) -> list[str]:
    span, world = lived.span, lived.world
    lines = [
        f"{len(lived.users):,} users of the synthetic world for {span.num_days} days from "
        f"{_date(span.start_us)} on. Every user lives in both arms, at the same moments and under "
        f"the same chance; each arm's pages change its own users' histories and item counters.",
        "True seconds are what the world expects of the pages shown: no chance of watching is in "
        "them. The test sees of each user only the arm that a salted hash assigns.",
        "Counted is the watching of recommendations; what users search and find by themselves is "
        "in their histories only. Item counters learn of a day when it is over.",
        "Users come as often whatever they are shown: this world has no retention.",
        f"Each arm's bundle is made anew from its own log every {settings.retrain_days} days."
        if settings.retrain_days
        else "The bundles stay as they are.",
    ]
    if span.end_us > world.end_us:
        lines.append(
            f"The world's log ends {_date(world.end_us)}: from then on interests drift on as "
            f"before, and nothing new is uploaded."
        )
    return lines


def _date(time_us: int) -> str:
    return str(np.datetime64(time_us, "us").astype("datetime64[D]"))


def _bounds(*values: Any) -> list[float]:
    return [float(value) for value in values]
