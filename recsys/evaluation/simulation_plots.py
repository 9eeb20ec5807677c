"""The plots of a simulation: what is true by day, what a test saw of it, what became of items."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from recsys.evaluation.plots import OURS, SERIES, TRUE, Draw

COLOURS = {"A": SERIES[5], "B": OURS}


def by_day(title: str, series: Mapping[str, Sequence[float]], label: str) -> Draw:
    """Return a line an arm over the days.

    Args:
        title: Of the panel.
        series: Arm -> [D].
        label: Of the values.
    """

    def draw(axes: Axes) -> None:
        for name, values in series.items():
            days = np.arange(1, len(values) + 1)
            axes.plot(days, values, color=COLOURS[name], label=name, marker="o", markersize=3)
        axes.set_title(title)
        axes.set_xlabel("day")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    return draw


def looks(title: str, rows: Sequence[Mapping[str, Any]]) -> Draw:
    """Return the test's difference after each day, with both intervals, beside the true one.

    Args:
        title: Of the panel.
        rows: `days`, `true`, `difference` and `always_valid`, the last two [value, low, high].
    """

    def draw(axes: Axes) -> None:
        days = np.array([row["days"] for row in rows])
        fixed = np.array([row["difference"] for row in rows], float)
        always = np.array([row["always_valid"] for row in rows], float)
        axes.axhline(0, color="#c3cad3", linewidth=1)
        axes.fill_between(days, always[:, 1], always[:, 2], color=OURS, alpha=0.1, linewidth=0)
        axes.fill_between(days, fixed[:, 1], fixed[:, 2], color=OURS, alpha=0.2, linewidth=0)
        axes.plot(days, fixed[:, 0], color=OURS, marker="o", markersize=3, label="as the test sees")
        axes.plot(days, [row["true"] for row in rows], color=TRUE, linestyle="--", label="true")
        axes.set_title(title)
        axes.set_xlabel("days of the test; dark: 95 % at a fixed end, light: at every look")
        axes.set_ylabel("seconds a user and day, B less A")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    return draw
