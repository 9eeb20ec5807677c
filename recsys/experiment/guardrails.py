"""What must not get worse, and what follows from that for which of two systems is better.

A guardrail is a question of non-inferiority: not whether the second system is worse, but whether
it can be worse by more than a margin. Its change is turned so that worse is negative:

    kept        the whole interval lies above -margin
    broken      the whole interval lies below -margin
    open        the interval holds -margin: too few users to tell

References:
    Schuirmann, A comparison of the two one-sided tests procedure and the power approach, 1987.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recsys.evaluation.intervals import Interval
from recsys.experiment.paired import Change

State = Literal["kept", "broken", "open"]
SMALLER_IS_BETTER = frozenset(
    {"latency_ms", "mae_seconds", "popularity_percentile", "item_age_days"}
)
"""Of these more is worse: a guardrail holds them down."""


@dataclass(frozen=True)
class Guardrail:
    """What came of a guardrail.

    Args:
        metric: Its name.
        margin: How much worse the second may be, as a share of the first's value.
        lift: Of the second over the first, as measured: not turned.
        state: See the docstring of this module.
    """

    metric: str
    margin: float
    lift: Interval
    state: State


def check_guardrail(metric: str, lift: Interval, margin: float) -> Guardrail:
    """Hold a relative change against its margin.

    Args:
        metric: Decides which way is worse.
        lift: Of the second system over the first; a change without bounds is taken as exact.
        margin: At least 0.
    """
    low, high = lift.low, lift.high
    if low != low or high != high:
        low = high = lift.value
    if metric in SMALLER_IS_BETTER:
        low, high = -high, -low
    state: State = "open"
    if low >= -margin:
        state = "kept"
    elif high < -margin:
        state = "broken"
    return Guardrail(metric, margin, lift, state)


def verdict(metric: str, change: Change, guardrails: Sequence[Guardrail]) -> str:
    """Say in one sentence which of A (the first) and B (the second) is better.

    Args:
        metric: What decides; larger is better.
        change: Of that metric.
        guardrails: As checked.
    """
    size = _size(metric, change)
    if change.difference.low > 0:
        return _of_better(metric, size, guardrails)
    if change.difference.high < 0:
        return f"A is better: with B, {size}."
    return f"No difference could be shown: {size}.{_also(guardrails)}"


def percent(value: float) -> str:
    """Spell a share as a percentage with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def _of_better(metric: str, size: str, guardrails: Sequence[Guardrail]) -> str:
    broken = [each.metric for each in guardrails if each.state == "broken"]
    open_ones = [each.metric for each in guardrails if each.state == "open"]
    if broken:
        return f"B is better on {size}, but breaks {_listed(broken)}."
    if open_ones:
        return f"B is better: {size}, but {_listed(open_ones)} may have got worse by too much."
    return f"B is better: {size}, no guardrail broken."


def _also(guardrails: Sequence[Guardrail]) -> str:
    broken = [each.metric for each in guardrails if each.state == "broken"]
    return f" B breaks {_listed(broken)}." if broken else ""


def _size(metric: str, change: Change) -> str:
    lift = change.lift
    if lift.low == lift.low and lift.value == lift.value:
        bounds = f"{percent(lift.low)} to {percent(lift.high)}"
        return f"{metric} {percent(lift.value)} % ({bounds})"
    # A's own value is 0, or is in some of the draws: there is no lift.
    found = change.difference
    return f"{metric} {found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
