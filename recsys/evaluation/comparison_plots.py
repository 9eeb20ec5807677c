"""The plots of a comparison of two bundles: changes with their intervals, against none."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from recsys.evaluation.plots import INK, OTHER, OURS, TRUE, Draw


def lifts(title: str, changes: Mapping[str, Any]) -> Draw:
    """Return relative changes with their intervals, best on top as given.

    Args:
        title: Of the panel.
        changes: Metric -> `lift`, [value, low, high] as shares; without bounds it is left out.
    """
    shown = {name: each["lift"] for name, each in changes.items() if None not in each["lift"]}

    def draw(axes: Axes) -> None:
        bounds = 100 * np.array(list(shown.values()), float).reshape(-1, 3)
        colours = [OTHER if low <= 0 <= high else OURS for _, low, high in bounds]
        _draw_intervals(axes, list(shown), bounds, colours)
        axes.set_title(title)
        axes.set_xlabel("per cent, with 95 % intervals; grey: it may be none")

    return draw


def segments(title: str, rows: Sequence[Mapping[str, Any]], found: Collection[str]) -> Draw:
    """Return the difference in each segment with its interval.

    Args:
        title: Of the panel.
        rows: `name` and `difference`, [value, low, high].
        found: Names of those that differ, their number corrected for.
    """

    def draw(axes: Axes) -> None:
        bounds = np.array([row["difference"] for row in rows], float).reshape(-1, 3)
        names = [row["name"] for row in rows]
        colours = [OURS if name in found else OTHER for name in names]
        _draw_intervals(axes, names, bounds, colours)
        axes.set_title(title)
        axes.set_xlabel("difference, with 95 % intervals; grey: it may be chance")

    return draw


def _draw_intervals(
    axes: Axes, names: Sequence[str], bounds: np.ndarray, colours: Sequence[str]
) -> None:
    """Draw a point and a bar for each name, from the top: float [n, 3]."""
    places = np.arange(len(names))[::-1]
    axes.axvline(0, color=TRUE, linestyle="--", linewidth=1)
    axes.hlines(places, bounds[:, 1], bounds[:, 2], colors=colours, linewidth=2.2)
    axes.scatter(bounds[:, 0], places, c=colours, s=34, edgecolors=INK, linewidths=0.5, zorder=3)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(visible=False, axis="y")
