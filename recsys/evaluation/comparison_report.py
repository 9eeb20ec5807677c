"""One HTML page that holds two bundles against each other, in the manner of the run's report.

`write_comparison_report` takes `figures`, what `compare.json` holds:

    verdict, primary    One sentence; the metric that decides.
    sides               "A", "B" -> bundle_id, name, data_until, items, trained_items, ranked,
                        degraded (stage -> requests answered without it).
    protocol            List of sentences: what was asked, what it does not say.
    requests, users     Numbers.
    metrics, exposure, ranking      metric -> A, B, difference and lift ([value, low, high], B
                        against A; null bounds where there is no interval).
    ranking_left_out    Why `ranking` is empty.
    guardrails          List of {metric, margin, lift, state: "kept", "broken" or "open"}.
    overlap             metric -> [value, low, high].
    winners             "A", "B", "equal" -> users.
    segments            List of {name, requests, users, A, B, difference, p_value,
                        adjusted_p_value}.
    small_segments      How many were left out.
    examples            "A", "B" (who wins) -> list of {user_id, target, A, B}, each of the last
                        two {place: of the target, from 1, or null, items: titles}.
    off_policy          One sentence.
    settings            As given.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.evaluation import comparison_plots as plots
from recsys.evaluation.report import Figures, Section, draw_panels, facts_of, spell, write_page

FALSE_DISCOVERIES = 0.05
"""Share of the segments said to differ that may not."""


def write_comparison_report(path: Path, figures: Figures) -> None:
    """Write the page.

    Args:
        path: File to write.
        figures: As the docstring of this module says.
    """
    change = figures["metrics"][figures["primary"]]
    tiles = [
        {"label": f"{figures['primary']}, {side}", "value": spell(change[side])} for side in "AB"
    ]
    tiles += [
        {"label": "change with B", "value": spell_percent(change["lift"][0])},
        {"label": "requests", "value": spell(figures["requests"])},
        {"label": "users", "value": spell(figures["users"])},
    ]
    names = [f"{side}: {figures['sides'][side]['name']}" for side in "AB"]
    title = " against ".join(names)
    write_page(path, figures, SECTIONS, title=title, subtitle=figures["verdict"], tiles=tiles)


def differing_segments(figures: Figures) -> list[Mapping[str, Any]]:
    """Return the segments in which the two differ, their number corrected for."""
    return [each for each in figures["segments"] if each["adjusted_p_value"] < FALSE_DISCOVERIES]


def spell_percent(share: float | None) -> str:
    """Spell a relative change in per cent."""
    return "–" if share is None else f"{100 * share:+.1f} %".replace("-", "−")


def spell_bounds(bounds: list[float | None], *, relative: bool = False) -> str:
    """Spell the two bounds of [value, low, high]; nothing where there are none."""
    low, high = bounds[1:]
    if low is None or high is None:
        return ""
    spelled = [spell_percent(each) if relative else _signed(each) for each in (low, high)]
    return " to ".join(spelled)


def _asked(figures: Figures) -> Section:
    facts = []
    for side, facts_of_side in figures["sides"].items():
        shown = {name: value for name, value in facts_of_side.items() if name != "degraded"}
        shown["bundle_id"] = shown["bundle_id"][:16]
        degraded = {f"without {stage}": n for stage, n in facts_of_side["degraded"].items()}
        facts.append(facts_of(side, shown | degraded))
    return {
        "lines": [*figures["protocol"], figures["off_policy"]],
        "facts": facts,
        "source": json.dumps(figures["settings"], indent=2),
    }


def _metrics(figures: Figures) -> Section:
    changes = figures["metrics"]
    winners = figures["winners"]
    line = (
        f"By {figures['primary']}, {winners['B']:,} users are better off with B, "
        f"{winners['A']:,} with A, {winners['equal']:,} alike."
    )
    panels = [plots.lifts("Change of B against A", changes)]
    return {"lines": [line], "plots": draw_panels(panels, columns=1), "table": _table(changes)}


def _exposure(figures: Figures) -> Section:
    return {"table": _table(figures["exposure"])}


def _ranking(figures: Figures) -> Section:
    if not figures["ranking"]:
        return {"lines": [f"Left out: {figures['ranking_left_out']}."]}
    return {"table": _table(figures["ranking"])}


def _guardrails(figures: Figures) -> Section:
    checked = figures["guardrails"]
    if not checked:
        return {}
    rows = [
        {
            "name": each["metric"],
            "cells": [
                {"value": f"{100 * each['margin']:g} %"},
                {
                    "value": spell_percent(each["lift"][0]),
                    "interval": spell_bounds(each["lift"], relative=True),
                },
                {"value": each["state"], "is_ours": each["state"] == "kept"},
            ],
        }
        for each in checked
    ]
    lines = [
        "B may be worse by the margin at most: kept where the whole interval says so, broken "
        "where the whole interval says the contrary, open where it holds the margin."
    ]
    return {"lines": lines, "table": {"columns": ["margin", "change", "state"], "rows": rows}}


def _overlap(figures: Figures) -> Section:
    rows = [
        {"name": name, "cells": [{"value": spell(bounds[0]), "interval": _plain(bounds)}]}
        for name, bounds in figures["overlap"].items()
    ]
    lines = ["1: the same items (and, for the rank-biased overlap, in the same order); 0: none."]
    return {"lines": lines, "table": {"columns": ["A and B"], "rows": rows}}


def _segments(figures: Figures) -> Section:
    segments = figures["segments"]
    if not segments:
        return {}
    found = differing_segments(figures)
    lines = [
        f"{len(found)} of {len(segments)} segments differ, of which at most "
        f"{100 * FALSE_DISCOVERIES:g} % by chance (Benjamini and Hochberg); bounds are those of "
        f"each segment alone. {figures['small_segments']} with few users are left out."
    ]
    rows = [
        {
            "name": each["name"],
            "cells": [
                {"value": spell(each["requests"])},
                {"value": spell(each["users"])},
                {"value": spell(each["A"])},
                {"value": spell(each["B"])},
                {
                    "value": _signed(each["difference"][0]),
                    "interval": spell_bounds(each["difference"]),
                    "is_ours": each in found,
                },
                {"value": f"{each['adjusted_p_value']:.3f}"},
            ],
        }
        for each in segments
    ]
    names = {each["name"] for each in found}
    panel = plots.segments(f"{figures['primary']}, B less A", segments, names)
    height = 1.1 + 0.26 * len(segments)
    columns = ["requests", "users", "A", "B", "B less A", "adjusted p"]
    return {
        "lines": lines,
        "plots": draw_panels([panel], columns=1, height=height),
        "table": {"columns": columns, "rows": rows},
    }


def _examples(figures: Figures) -> Section:
    samples = [
        {
            "user_id": f"{example['user_id']}: {winner} is better",
            "left": _heading("A", example["A"]),
            "history": example["A"]["items"],
            "watched_next": example["target"],
            "right": _heading("B", example["B"]),
            "recommended": [{"item": item, "seconds": None} for item in example["B"]["items"]],
        }
        for winner, examples in figures["examples"].items()
        for example in examples
    ]
    return {"samples": samples}


SECTIONS = (
    ("metrics", "Is the watch found?", "nothing was asked", _metrics),
    ("guardrails", "Guardrails", "none was set that the log can tell", _guardrails),
    ("exposure", "What the pages are made of, and how fast", "nothing is known", _exposure),
    ("ranking", "What the rankers say of impressions", "no impressions", _ranking),
    ("overlap", "How alike the lists are", "nothing was asked", _overlap),
    ("segments", "For whom", "no segment has enough users", _segments),
    ("examples", "Who wins and who loses", "no list is better than the other", _examples),
    ("asked", "What was asked", "not described", _asked),
)
"""Key, title, what is missing, and builder of each section, in order."""


def _table(changes: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "name": name,
            "cells": [
                {"value": spell(change["A"])},
                {"value": spell(change["B"])},
                {
                    "value": _signed(change["difference"][0]),
                    "interval": spell_bounds(change["difference"]),
                },
                {
                    "value": spell_percent(change["lift"][0]),
                    "interval": spell_bounds(change["lift"], relative=True),
                },
            ],
        }
        for name, change in changes.items()
    ]
    return {"columns": ["A", "B", "B less A", "change"], "rows": rows}


def _heading(side: str, answer: Mapping[str, Any]) -> str:
    place = answer["place"]
    return f"{side}: {'the watch is not found' if place is None else f'the watch at {place}'}"


def _plain(bounds: list[float | None]) -> str:
    return "" if bounds[1] is None else f"{spell(bounds[1])} to {spell(bounds[2])}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")
