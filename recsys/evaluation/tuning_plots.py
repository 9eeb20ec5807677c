"""The plots of a search for hyper-parameters, as `recsys.evaluation.plots` draws them.

A trial is a mapping: `trial` its number, `state` ("complete", "pruned", "failed"), `settings` by
name, `epochs` the metric of each. What is compared is its best epoch.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from recsys.evaluation.plots import OTHER, OURS, TRUE, Draw

Trials = Sequence[Mapping[str, Any]]
MAX_LABEL = 24


def optimisation_history(trials: Trials, metric: str, *, larger_is_better: bool) -> Draw:
    """Return each trial's metric in their order, and the best so far of those that ended."""

    def draw(axes: Axes) -> None:
        _scatter(axes, trials, [trial["trial"] for trial in trials], larger_is_better)
        ended = [trial for trial in trials if trial["state"] == "complete"]
        extreme = np.maximum if larger_is_better else np.minimum
        best = extreme.accumulate([_value(trial, larger_is_better) for trial in ended])
        numbers = [trial["trial"] for trial in ended]
        axes.step(numbers, best, where="post", color=TRUE, label="best so far")
        axes.set_title("Trials in their order")
        axes.set_xlabel("trial")
        axes.set_ylabel(metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    return draw


def learning_curves(trials: Trials, metric: str, best: int) -> Draw:
    """Return the metric of all trials by epoch: the pruned pale, the best drawn thick.

    Args:
        trials: All.
        metric: Its name.
        best: Number of the best trial.
    """

    def draw(axes: Axes) -> None:
        for trial in sorted(trials, key=lambda trial: trial["trial"] == best):
            is_best, is_whole = trial["trial"] == best, trial["state"] == "complete"
            axes.plot(
                np.arange(1, len(trial["epochs"]) + 1),
                trial["epochs"],
                color=TRUE if is_best else OURS if is_whole else OTHER,
                alpha=1.0 if is_best else 0.6 if is_whole else 0.35,
                linewidth=2.4 if is_best else 1.1,
                marker="o",
                markersize=3,
            )
        axes.set_title("Learning curves (orange: the best, pale: pruned)")
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return draw


def slice_of(
    trials: Trials, setting: str, metric: str, *, larger_is_better: bool, is_log: bool
) -> Draw:
    """Return the metric against one setting; values that are no numbers stand side by side."""
    values = [trial["settings"][setting] for trial in trials]
    is_number = all(isinstance(value, int | float) for value in values)
    names = sorted({json.dumps(value) for value in values})

    def draw(axes: Axes) -> None:
        places = values if is_number else [names.index(json.dumps(value)) for value in values]
        _scatter(axes, trials, places, larger_is_better)
        if not is_number:
            labels = [name.strip('"')[:MAX_LABEL] for name in names]
            axes.set_xticks(range(len(names)), labels)
            axes.set_xlim(-0.5, len(names) - 0.5)
        elif is_log:
            axes.set_xscale("log")
        axes.set_title(setting)
        axes.set_ylabel(metric)

    return draw


def importances(shares: Mapping[str, float]) -> Draw:
    """Return how much of what the metric varies by each setting explains, largest on top."""

    def draw(axes: Axes) -> None:
        ordered = sorted(shares.items(), key=lambda entry: entry[1])
        axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=OURS)
        axes.grid(visible=False, axis="y")
        axes.set_title("Importance (PED-ANOVA)")
        axes.xaxis.set_major_formatter("{x:.0%}")

    return draw


def _scatter(axes: Axes, trials: Trials, places: Sequence[float], larger_is_better: bool) -> None:
    for is_whole, colour, name in ((False, OTHER, "pruned, failed"), (True, OURS, "whole")):
        shown = [
            (place, _value(trial, larger_is_better))
            for trial, place in zip(trials, places, strict=True)
            if trial["epochs"] and (trial["state"] == "complete") == is_whole
        ]
        if shown:
            across, up = zip(*shown, strict=True)
            axes.scatter(across, up, s=22, color=colour, label=name)


def _value(trial: Mapping[str, Any], larger_is_better: bool) -> float:
    return max(trial["epochs"]) if larger_is_better else min(trial["epochs"])
