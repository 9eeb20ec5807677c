"""Trainings compared after equal seconds: a clock that stands still while nothing is learned.

Seconds are of the processor, of all threads, of the steps and of making their batches. Compilation
and measurements are not counted. Goes in: steps as an iterator. Comes out: the curve of a metric.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from recsys.core.backends import Optimizer
from recsys.core.checkpoint import read_variables, write_variables
from recsys.evaluation.plots import INK, SERIES


@dataclass
class Clock:
    """Processor seconds of the blocks that it was `running` for."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of a block."""
        started = time.process_time()
        yield
        self.seconds += time.process_time() - started


@dataclass
class Curve:
    """A metric over the time of a training.

    Args:
        seconds: When each was measured; `num_steps`: after how many steps.
        values: The metric.
    """

    seconds: list[float] = field(default_factory=list)
    num_steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def best(self, *, larger_is_better: bool) -> float:
        """Return the best value; the worst there is for a training that was never measured."""
        if not self.values:
            return -math.inf if larger_is_better else math.inf
        return max(self.values) if larger_is_better else min(self.values)


def train_for(
    steps: Iterator[Any], measure: Callable[[], float], *, seconds: float, num_looks: int
) -> Curve:
    """Take steps until the seconds are spent; measure at equal distances.

    Args:
        steps: Each `next` is one step; it may end early, where a loss is no longer finite.
        measure: The metric of the net as it is.
        seconds: Of steps.
        num_looks: Measurements, the last at the end.
    """
    clock, curve = Clock(), Curve()
    for number in itertools.count(1):
        with clock.running():
            is_over = next(steps, None) is None
        if is_over:
            return curve
        if clock.seconds >= (len(curve.values) + 1) * seconds / num_looks:
            curve.seconds.append(clock.seconds)
            curve.num_steps.append(number)
            curve.values.append(measure())
        if clock.seconds >= seconds:
            return curve
    return curve


def compile_first(
    new_steps: Callable[[], Iterator[Any]],
    variables: Sequence[Any],
    optimizer: Optimizer,
    count: int,
) -> Iterator[Any]:
    """Take a few steps, in which all is compiled, undo them, and return the steps anew.

    Args:
        new_steps: Returns the steps from the first on.
        variables: Of the net.
        optimizer: Of the steps.
        count: Steps to take.
    """
    changed = [*variables, *optimizer.variables]
    before = [np.array(values) for values in read_variables(changed)]
    for _ in itertools.islice(new_steps(), count):
        pass
    write_variables(changed, before)
    return new_steps()


def draw_curves(
    title: str,
    curves: Mapping[str, Mapping[str, Any]],
    *,
    label: str,
    limits: tuple[float | None, float | None] = (None, None),
) -> Callable[[Axes], None]:
    """Return a plot of values against seconds.

    Args:
        title: Of the panel.
        curves: Name -> `seconds` and `values`.
        label: Of the vertical axis.
        limits: Of it, where a slow start would flatten all else.
    """

    def draw(axes: Axes) -> None:
        for place, (name, curve) in enumerate(curves.items()):
            axes.plot(
                curve["seconds"],
                curve["values"],
                color=SERIES[place % len(SERIES)],
                linestyle="-" if place < len(SERIES) else "--",
                label=name,
            )
        axes.set_title(title)
        axes.set_xlabel("processor seconds of training", color=INK)
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.set_ylim(*limits)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return draw


def finite_only(losses: Iterable[float]) -> Iterator[float]:
    """Yield losses until one is not finite: the net is lost then."""
    return itertools.takewhile(math.isfinite, losses)
