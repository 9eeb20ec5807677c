"""One HTML page that shows a simulation, in the manner of the run's report.

`write_simulation_report` takes `figures`, what `simulation.json` holds; seconds are those of
watching recommendations, a user and day:

    verdict             One sentence.
    sides               "A", "B" -> name, bundle_ids (more than one where it learned), policy,
                        pages, degraded (answers without a stage).
    protocol            List of sentences: how it was done, what it does not say.
    users, days         Numbers.
    truth               expected, watched (arm -> seconds of all users), difference and lift of
                        the expected ones, B against A.
    by_day              List of {A, B}: true seconds of each day.
    test                What a test on users saw at its end: days, num_users (arm -> number),
                        ratio_p_value, A, B, difference, lift, always_valid ([value, low, high]),
                        p_value, variance_cut, true, holds_truth.
    looks               The same after each day.
    trend               slope (of the test's effect a day), standard_error, p_value, reading;
                        null of a single day.
    catalogue           "watched_share", "gini" -> arm -> by the end of each day.
    off_policy          Arm -> what the other arm's log says of it: "first_place", "page" ->
                        true, rows, estimates (name -> [value, low, high]), effective_rows,
                        refused. Empty where no log has propensities.
    settings            As given.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.evaluation import simulation_plots as plots
from recsys.evaluation.comparison_report import spell_bounds, spell_percent
from recsys.evaluation.report import Figures, Section, draw_panels, facts_of, spell, write_page


def write_simulation_report(path: Path, figures: Figures) -> None:
    """Write the page.

    Args:
        path: File to write.
        figures: As the docstring of this module says.
    """
    truth = figures["truth"]
    tiles = [
        {"label": f"true seconds a user and day, {side}", "value": spell(truth["expected"][side])}
        for side in "AB"
    ]
    tiles += [
        {"label": "true change with B", "value": spell_percent(truth["lift"])},
        {"label": "users", "value": spell(figures["users"])},
        {"label": "days", "value": spell(figures["days"])},
    ]
    names = [f"{side}: {figures['sides'][side]['name']}" for side in "AB"]
    title = f"{' against '.join(names)}, simulated"
    write_page(path, figures, SECTIONS, title=title, subtitle=figures["verdict"], tiles=tiles)


def _truth(figures: Figures) -> Section:
    truth = figures["truth"]
    rows = [
        {
            "name": name,
            "cells": [
                *({"value": spell(truth[key][side])} for side in "AB"),
                {"value": _signed(truth[key]["B"] - truth[key]["A"])},
            ],
        }
        for key, name in (("expected", "expected of the pages"), ("watched", "as drawn"))
    ]
    series = {side: [day[side] for day in figures["by_day"]] for side in "AB"}
    panels = [plots.by_day("True seconds by day", series, "seconds a user")]
    return {
        "plots": draw_panels(panels, columns=1),
        "table": {"columns": ["A", "B", "B less A"], "rows": rows},
    }


def _test(figures: Figures) -> Section:
    test, trend = figures["test"], figures["trend"]
    is_held = "holds" if test["holds_truth"] else "does not hold"
    lines = [
        f"{test['num_users']['A']:,} users were assigned to A and {test['num_users']['B']:,} to B "
        f"(p = {test['ratio_p_value']:.2f} of the planned halves). The interval {is_held} the true "
        f"difference, {_signed(test['true'])}; p = {test['p_value']:.3f} of none. What users "
        f"watched before cut the variance by {100 * test['variance_cut']:.0f} %.",
    ]
    if trend:
        lines.append(
            f"By its days the effect is {trend['reading']}: {_signed(trend['slope'])} a day, "
            f"p = {trend['p_value']:.2f}."
        )
    rows = [
        {
            "name": f"after {look['days']} days",
            "cells": [
                {"value": spell(look["A"])},
                {"value": spell(look["B"])},
                {
                    "value": _signed(look["difference"][0]),
                    "interval": spell_bounds(look["difference"]),
                },
                {"value": _signed(look["true"]), "is_ours": look["holds_truth"]},
            ],
        }
        for look in figures["looks"]
    ]
    panels = [plots.looks("What a test on users saw", figures["looks"])]
    columns = ["A", "B", "B less A", "true"]
    return {
        "lines": lines,
        "plots": draw_panels(panels, columns=1),
        "table": {"columns": columns, "rows": rows},
    }


def _catalogue(figures: Figures) -> Section:
    catalogue = figures["catalogue"]
    panels = [
        plots.by_day("Share of the items that anybody has watched", catalogue["watched_share"], ""),
        plots.by_day("Concentration of the watches (Gini)", catalogue["gini"], ""),
    ]
    return {"plots": draw_panels(panels)}


def _off_policy(figures: Figures) -> Section:
    rows, lines = [], []
    for arm, found in figures["off_policy"].items():
        for what, estimate in found.items():
            name = f"{arm}, {what.replace('_', ' ')}"
            rows.append(_estimate_row(f"{name}: true", [estimate["true"], None, None]))
            rows += [
                _estimate_row(f"{name}: {method}", bounds)
                for method, bounds in estimate["estimates"].items()
            ]
            if estimate["refused"]:
                lines.append(f"{name}: refused. {estimate['refused']}")
    table = {"columns": ["seconds a page"], "rows": rows}
    return {"lines": lines, "table": table} if rows else {}


def _estimate_row(name: str, bounds: list[float | None]) -> dict[str, Any]:
    interval = spell_bounds(bounds)
    return {"name": name, "cells": [{"value": spell(bounds[0]), "interval": interval}]}


def _done(figures: Figures) -> Section:
    facts = [facts_of(side, _side_facts(of_side)) for side, of_side in figures["sides"].items()]
    return {
        "lines": figures["protocol"],
        "facts": facts,
        "source": json.dumps(figures["settings"], indent=2),
    }


def _side_facts(side: Mapping[str, Any]) -> dict[str, Any]:
    bundles = [bundle_id[:16] for bundle_id in side["bundle_ids"]]
    shown = {name: value for name, value in side.items() if name != "bundle_ids"}
    return {**shown, "bundles": ", ".join(bundles)}


SECTIONS = (
    ("truth", "What is true", "nobody came", _truth),
    ("test", "What a test on users would have said", "nobody came", _test),
    ("catalogue", "What became of the catalogue", "nobody came", _catalogue),
    (
        "off_policy",
        "What one arm's log says of the other",
        "no arm draws its orders, so that no log has propensities",
        _off_policy,
    ),
    ("done", "How it was done", "not described", _done),
)
"""Key, title, what is missing, and builder of each section, in order."""


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")
