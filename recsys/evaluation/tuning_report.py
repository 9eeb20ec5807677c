"""One HTML page that shows a search for hyper-parameters, in the manner of the run's report.

`write_tuning_report` takes `figures`:

    name, stage, metric     Of the run; what is tuned; what by.
    larger_is_better        Of the metric.
    trials                  List as `recsys.evaluation.tuning_plots` describes it, with the metric
                            under its name (None unless complete), `problem`, `is_baseline`,
                            `seconds`.
    best                    Number of the best trial.
    overrides, config       Its settings as `--set` takes them, and the file that has them.
    importances             setting -> share; empty where too few trials ended.
    log_scaled              Settings searched by factors.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from recsys.evaluation import tuning_plots as plots
from recsys.evaluation.report import Figures, Section, draw_panels, facts_of, spell, write_page

SUBTITLE = "Search for hyper-parameters by the validation part; the test part was not read."


def write_tuning_report(path: Path, figures: Figures) -> None:
    """Write the page.

    Args:
        path: File to write.
        figures: As the docstring of this module says.
    """
    best = _best(figures)
    tiles = [
        {"label": f"{figures['metric']}, best", "value": spell(best[figures["metric"]])},
        *(
            {
                "label": f"{figures['metric']}, as configured",
                "value": spell(trial[figures["metric"]]),
            }
            for trial in figures["trials"]
            if trial["is_baseline"]
        ),
        {"label": "trials", "value": spell(len(figures["trials"]))},
    ]
    title = f"{figures['name']}: {figures['stage']}, tuned"
    write_page(path, figures, SECTIONS, title=title, subtitle=SUBTITLE, tiles=tiles)


def _found(figures: Figures) -> Section:
    best = _best(figures)
    states = Counter(trial["state"] for trial in figures["trials"])
    return {
        "lines": [f"Use it: recsys run --config {figures['config']}"],
        "facts": [
            facts_of(f"Trial {best['trial']}, the best", best["settings"]),
            facts_of("Trials", states),
        ],
        "source": "\n".join(figures["overrides"]),
    }


def _course(figures: Figures) -> Section:
    trials, metric = figures["trials"], figures["metric"]
    panels = [
        plots.optimisation_history(trials, metric, larger_is_better=figures["larger_is_better"]),
        plots.learning_curves(trials, metric, figures["best"]),
    ]
    return {"plots": draw_panels(panels, height=3.4)}


def _slices(figures: Figures) -> Section:
    panels = [
        plots.slice_of(
            figures["trials"],
            setting,
            figures["metric"],
            larger_is_better=figures["larger_is_better"],
            is_log=setting in figures["log_scaled"],
        )
        for setting in figures["trials"][0]["settings"]
    ]
    return {"plots": draw_panels(panels, columns=max(2, min(3, len(panels))))}


def _importances(figures: Figures) -> Section:
    shares = figures["importances"]
    if not shares:
        return {}
    height = 0.9 + 0.3 * len(shares)
    return {"plots": draw_panels([plots.importances(shares)], columns=1, height=height)}


def _trials(figures: Figures) -> Section:
    metric, settings = figures["metric"], list(figures["trials"][0]["settings"])
    rows = [
        {
            "name": f"{trial['trial']}{' (as configured)' if trial['is_baseline'] else ''}",
            "is_ours": trial["trial"] == figures["best"],
            "cells": [
                {"value": trial["state"]},
                {"value": spell(trial[metric])},
                {"value": spell(len(trial["epochs"]))},
                {"value": spell(trial["seconds"])},
                *({"value": _spell_setting(trial["settings"][name])} for name in settings),
            ],
        }
        for trial in figures["trials"]
    ]
    columns = ["state", metric, "epochs", "seconds", *settings]
    problems = [
        f"Trial {trial['trial']}: {trial['problem']}"
        for trial in figures["trials"]
        if trial["problem"]
    ]
    return {"lines": problems, "table": {"columns": columns, "rows": rows}}


SECTIONS = (
    ("found", "What was found", "nothing was found", _found),
    ("course", "The course of the search", "no trial has an epoch", _course),
    ("slices", "Each setting", "no setting was searched", _slices),
    ("importances", "What matters", "too few trials ended with different figures", _importances),
    ("trials", "All trials", "there are none", _trials),
)
"""Key, title, what is missing, and builder of each section, in order."""


def _best(figures: Figures) -> Any:
    return next(trial for trial in figures["trials"] if trial["trial"] == figures["best"])


def _spell_setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
