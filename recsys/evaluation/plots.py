"""The plots of a report, each as an SVG element to be put into a page."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

OURS, TRUE, OTHER, INK = "#2458a6", "#d97a26", "#a9b4c2", "#39424e"
SERIES = (OURS, TRUE, "#3f8f6b", "#8a5aa8", "#b04848", "#5c6b7a")
LONG_TAIL = 10
"""Times the middle edge from which on the last one makes a linear axis unreadable."""
MAX_GROUP_LABELS = 10
"""Below a panel; of more groups, evenly spaced ones are named."""
STYLE = {
    "axes.edgecolor": "#c3cad3",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.labelsize": 9.5,
    "font.size": 9.5,
    "grid.color": "#e8ebef",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "recsys",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

Draw = Callable[[Axes], None]
Metrics = Mapping[str, Any]
"""Metric -> value, and `intervals`: metric -> [low, high]."""


def side_by_side(draws: Sequence[Draw], *, height: float = 2.9, columns: int = 2) -> str:
    """Draw each into a panel of its own, in rows, and return one SVG element.

    Args:
        draws: What fills each panel.
        height: Of a row, in inches; all columns together are 10 wide.
        columns: Panels in a row; a single panel takes the room of a wide one.
    """
    rows = -(-len(draws) // columns)
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        figure = Figure(figsize=(10, height * rows), layout=layout)
        grid = figure.subplots(rows, columns, squeeze=False)
        for panel, axes in enumerate(grid.flat):
            if panel < len(draws):
                draws[panel](axes)
            else:
                axes.set_axis_off()
        return _to_svg(figure)


def events_by_day(days: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Draw:
    """Return a plot of counts (events, watches) by day, ISO dates."""
    moments = np.array(days, "datetime64[D]")

    def draw(axes: Axes) -> None:
        for (name, values), colour in zip(counts.items(), SERIES, strict=False):
            axes.plot(moments, values, color=colour, label=name, marker="o", markersize=2.5)
        axes.set_title("Events by day")
        axes.set_ylim(bottom=0)
        locator = AutoDateLocator(maxticks=6)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.legend()

    return draw


def distributions(title: str, edges: Sequence[float], counts: Mapping[str, Sequence[int]]) -> Draw:
    """Return shares over bins of seconds, one outline a name.

    Args:
        title: Of the panel.
        edges: [M + 1], ascending, in seconds.
        counts: Name -> [M].
    """

    def draw(axes: Axes) -> None:
        colours = (TRUE, OURS) if len(counts) > 1 else (OURS,)
        for (name, values), colour in zip(counts.items(), colours, strict=False):
            share = np.asarray(values) / max(np.sum(values), 1)
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.22)
            axes.stairs(share, edges, color=colour, label=name, linewidth=1.4)
        if edges[-1] > LONG_TAIL * max(edges[len(edges) // 2], 1):
            axes.set_xscale("symlog", linthresh=max(edges[1], 1))
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(title)
        axes.set_xlabel("seconds")
        axes.set_ylabel("share")
        axes.yaxis.set_major_formatter("{x:.0%}")
        if len(counts) > 1:
            axes.legend()

    return draw


def popularity_curve(rank: Sequence[int], watches: Sequence[int]) -> Draw:
    """Return watches against the item's rank by watches, both logarithmic."""

    def draw(axes: Axes) -> None:
        axes.loglog(rank, np.maximum(watches, 0.5), color=OURS)
        axes.set_title("Popularity of items")
        axes.set_xlabel("rank of the item")
        axes.set_ylabel("watches")

    return draw


def training_curves(title: str, epochs: Sequence[Mapping[str, Any]], best_epoch: int) -> list[Draw]:
    """Return a panel of the training loss and one of each validation metric.

    Args:
        title: Name of the stage.
        epochs: As in `curves.json`: `figures` and `metrics`, name -> value.
        best_epoch: Marked by a line.
    """
    panels = []
    for group, label in (("figures", "training"), ("metrics", "validation")):
        names = list(epochs[0][group]) if epochs else []
        kept = [name for name in names if name == "loss"] if group == "figures" else names
        for name in kept:
            values = [epoch[group].get(name, np.nan) for epoch in epochs]
            panels.append(_curve(f"{title}: {label} {name}", values, best_epoch))
    return panels


def metric_bars(name: str, systems: Mapping[str, Metrics]) -> Draw:
    """Return horizontal bars of one metric with intervals; the first system is ours."""

    def draw(axes: Axes) -> None:
        labels = [label for label in systems if systems[label].get(name) is not None]
        values = [systems[label][name] for label in labels]
        bounds = [systems[label].get("intervals", {}).get(name) for label in labels]
        errors = [
            (value - low, high - value)
            for value, (low, high) in (
                (value, bound or (value, value))
                for value, bound in zip(values, bounds, strict=True)
            )
        ]
        place = np.arange(len(labels))[::-1]
        first = next(iter(systems))
        colours = [OURS if label == first else OTHER for label in labels]
        axes.barh(place, values, color=colours, height=0.62)
        spread = np.maximum(np.array(errors, float).reshape(-1, 2).T, 0)
        axes.errorbar(values, place, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
        axes.set_yticks(place, labels)
        axes.grid(visible=False, axis="y")
        axes.set_title(name)

    return draw


def calibration(predicted: Sequence[float], true: Sequence[float]) -> Draw:
    """Return mean truth against mean prediction of each bin, with the line of equality."""

    def draw(axes: Axes) -> None:
        largest = max([*predicted, *true, 1e-9])
        axes.plot([0, largest], [0, largest], color=OTHER, linestyle="--", label="equal")
        axes.plot(predicted, true, color=OURS, marker="o", markersize=4, label="bins")
        axes.set_title("Calibration of expected watch time")
        axes.set_xlabel("predicted seconds")
        axes.set_ylabel("true seconds")
        axes.legend()

    return draw


def seconds_ratios(title: str, rows: Sequence[Mapping[str, Any]]) -> Draw:
    """Return predicted over true seconds of groups in order, with the line of equality.

    Args:
        title: Of the panel.
        rows: `name`, and the ratios `before` and `after` calibration, of each group.
    """

    def draw(axes: Axes) -> None:
        axes.axhline(1, color=TRUE, linestyle="--", label="equal")
        lines = (("before", "uncalibrated", OTHER), ("after", "calibrated", OURS))
        for name, label, colour in lines:
            values = np.array([row[name] for row in rows], float)
            axes.plot(values, color=colour, marker="o", markersize=4, label=label)
        low, high = axes.get_ylim()
        # Noise is not to fill the panel, nor the ratio of a few impressions to flatten the others.
        axes.set_ylim(np.clip(low, 0, 0.9), np.clip(high, 1.1, 2))
        shown = range(0, len(rows), -(-len(rows) // MAX_GROUP_LABELS))
        labels = [rows[place]["name"] for place in shown]
        axes.set_xticks(shown, labels, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_title(title, pad=24)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=3)

    return draw


def index_trade_off(measured: Sequence[Mapping[str, Any]]) -> Draw:
    """Return recall against milliseconds a query, a line for each kind, ours circled."""

    def draw(axes: Axes) -> None:
        kinds = list(dict.fromkeys(row["kind"] for row in measured))
        for kind, colour in zip(kinds, SERIES, strict=False):
            points = sorted(
                (row["milliseconds"], row["recall"]) for row in measured if row["kind"] == kind
            )
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=kind)
        chosen = [row for row in measured if row.get("is_chosen")]
        axes.scatter(
            [row["milliseconds"] for row in chosen],
            [row["recall"] for row in chosen],
            s=170,
            facecolors="none",
            edgecolors=INK,
            label="served",
        )
        axes.set_xlim(left=0)
        axes.set_title("Index: recall against speed")
        axes.set_xlabel("milliseconds a query")
        axes.set_ylabel("recall")
        axes.legend(loc="lower right")

    return draw


def _curve(title: str, values: Sequence[float], best_epoch: int) -> Draw:
    def draw(axes: Axes) -> None:
        epochs = np.arange(1, len(values) + 1)
        axes.axvline(best_epoch + 1, color=TRUE, linewidth=1, linestyle="--")
        axes.plot(epochs, values, color=OURS, marker="o", markersize=3)
        axes.set_title(title)
        axes.set_xlabel("epoch (dashed: the best)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return draw


def _to_svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
