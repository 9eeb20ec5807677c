"""One HTML page that shows a run: self-contained, without scripts or links to anything.

`write_report` takes `figures`, a dictionary that can be written as JSON. Every key may be absent
(or empty): its section then says in one line that it is left out.

    name            Title of the run.
    run             settings: nested dictionary, shown folded.
                    data: statistic -> number or text (events, users, items, ...).
                    seconds: step -> wall-clock seconds.
                    protocol: list of sentences (how queries were chosen, what is filtered, ties).
    data            events_by_day: {days: [ISO dates], counts: {name: [one number a day]}}
                    watch_seconds: {edges: [M + 1], counts: [M]}
                    popularity: {rank: [...], watches: [...]}, from the most watched item on.
    training        stage ("candidates", "ranking", "exploration") -> what `curves.json` holds:
                    epochs (figures and metrics by name), best_epoch.
    candidates      metric -> value, with "@" in the name (`hr@10`, `ndcg@10`, ...);
                    intervals: metric -> [low, high].
    sources         List of {name, candidates, recall, alone}: of each candidate source the mean
                    number of candidates, the share of held-out watches among them, and the share
                    that no other source found.
    ranking         metric -> value (`mae_seconds`, `rmse_seconds`, `xauc`, `gauc`,
                    `seconds_ratio`, ...); intervals as above.
    baselines       name -> metrics as above, of either stage: those with "@" stand beside
                    `candidates`, those without beside `ranking`.
    calibration     {predicted: [M], true: [M], counts: [M]}, as `CalibrationTable`.
    seconds_ratio_by    "surface", "duration", "day" -> list of {name, impressions, before, after}:
                    predicted over true seconds before and after calibration.
    watch_time      {edges: [M + 1], true: [M], predicted: [M]}, counts of test impressions.
    exploration     coverage: list of {name, impressions, coverage, below, above}, of the neural
                    process's 80 % intervals by known watches: shares of the test impressions
                    within, below and above.
    index           What `recall.json` holds: list of {kind, setting, recall, milliseconds,
                    is_chosen}.
    serving         requests: number; dropped: reason -> number; degraded: stage -> number;
                    milliseconds: stage -> mean of a request.
    samples         List of {user_id, history: [text], watched_next: text or None,
                    recommended: [{item: text, seconds: number or None}]}.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from recsys.evaluation import plots

OURS = "this run"
SUBTITLE = "Evaluation on held-out events, through the recommender that serves."
TEMPLATE = Path(__file__).with_name("report.html")
TILES = ("hr@10", "hr@50", "ndcg@10", "mae_seconds", "xauc", "gauc", "seconds_ratio")
NUM_BARS = 6

Figures = Mapping[str, Any]
Section = dict[str, Any]
SectionEntry = tuple[str, str, str, Callable[[Figures], Section]]


def write_report(path: Path, figures: Figures) -> None:
    """Write the page.

    Args:
        path: File to write.
        figures: As the docstring of this module says.
    """
    title = f"{figures.get('name', 'Run')}: evaluation"
    write_page(path, figures, SECTIONS, title=title, subtitle=SUBTITLE, tiles=_tiles(figures))


def write_page(
    path: Path,
    figures: Figures,
    sections: Sequence[SectionEntry],
    *,
    title: str,
    subtitle: str,
    tiles: Sequence[Mapping[str, str]],
) -> None:
    """Write a page in the manner of all our reports.

    Args:
        path: File to write.
        figures: What the builders of the sections take.
        sections: Key, title, what is missing, and builder of each, in order.
        title: On top, and of the window.
        subtitle: One sentence below.
        tiles: Figures shown in large: `label` and `value`.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    built = [_section(*entry, figures) for entry in sections]
    page = template.render(title=title, subtitle=subtitle, tiles=tiles, sections=built)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _section(
    key: str, title: str, missing: str, build: Callable[[Figures], Section], figures: Figures
) -> Section:
    """Build a section, or a line in its place where its figures are absent."""
    empty: Section = {
        "lines": [],
        "facts": [],
        "plots": [],
        "table": None,
        "samples": [],
        "source": "",
    }
    content = build(figures)
    left_out = "" if any(content.values()) else f"Left out: {missing}."
    return {"key": key, "title": title, "missing": left_out, **empty, **content}


def _run(figures: Figures) -> Section:
    run = figures.get("run", {})
    facts = [
        facts_of("Data", run.get("data", {})),
        facts_of("Wall time, seconds", run.get("seconds", {})),
    ]
    settings = run.get("settings")
    return {
        "lines": list(run.get("protocol", [])),
        "facts": [fact for fact in facts if fact["rows"]],
        "source": json.dumps(settings, indent=2, ensure_ascii=False) if settings else "",
    }


def _data(figures: Figures) -> Section:
    data = figures.get("data", {})
    panels = []
    if by_day := data.get("events_by_day"):
        panels.append(plots.events_by_day(by_day["days"], by_day["counts"]))
    if watch := data.get("watch_seconds"):
        counts = {"watch time": watch["counts"]}
        panels.append(plots.distributions("Watch time of impressions", watch["edges"], counts))
    if popularity := data.get("popularity"):
        panels.append(plots.popularity_curve(popularity["rank"], popularity["watches"]))
    return {"plots": draw_panels(panels, columns=max(2, len(panels)))}


def _training(figures: Figures) -> Section:
    drawn = []
    for stage, curves in figures.get("training", {}).items():
        if curves and curves.get("epochs"):
            panels = plots.training_curves(stage, curves["epochs"], curves["best_epoch"])
            drawn += draw_panels(panels, columns=_columns(panels), height=2.6)
    return {"plots": drawn}


def _candidates(figures: Figures) -> Section:
    return _comparison(figures, "candidates", lambda metric: "@" in metric)


def _sources(figures: Figures) -> Section:
    sources = figures.get("sources", [])
    rows = [
        {
            "name": source["name"].replace("_", " "),
            "cells": [{"value": spell(source[name])} for name in ("candidates", "recall", "alone")],
        }
        for source in sources
    ]
    columns = ["candidates a request", "held-out watches among them", "found by no other"]
    return {"table": {"columns": columns, "rows": rows} if rows else None}


def _ranking(figures: Figures) -> Section:
    return _comparison(figures, "ranking", lambda metric: "@" not in metric)


def _comparison(figures: Figures, stage: str, belongs: Callable[[str], bool]) -> Section:
    """Compare this run with the baselines that have one of its metrics."""
    ours = _numbers(figures.get(stage, {}))
    columns = [metric for metric in ours if belongs(metric)]
    if not columns:
        return {}
    others = {
        name: metrics
        for name, metrics in figures.get("baselines", {}).items()
        if any(metric in columns for metric in _numbers(metrics))
    }
    systems = {OURS: figures[stage], **others}
    shown = [metric for metric in TILES if metric in columns] or columns
    panels = [plots.metric_bars(metric, systems) for metric in shown[:NUM_BARS]]
    height = 0.9 + 0.3 * len(systems)
    return {
        "lines": ["Intervals: 95 %, users resampled."] if figures[stage].get("intervals") else [],
        "plots": draw_panels(panels, columns=_columns(panels), height=height),
        "table": {
            "columns": list(systems),
            "rows": [
                {"name": metric, "cells": [_cell(*each, metric) for each in systems.items()]}
                for metric in columns
            ],
        },
    }


def _seconds(figures: Figures) -> Section:
    panels = []
    if table := figures.get("calibration"):
        panels.append(plots.calibration(table["predicted"], table["true"]))
    if watch := figures.get("watch_time"):
        counts = {"true": watch["true"], "predicted": watch["predicted"]}
        title = "Watch time, true and predicted"
        panels.append(plots.distributions(title, watch["edges"], counts))
    return {"plots": draw_panels(panels, height=3.4)}


def _seconds_ratio_by(figures: Figures) -> Section:
    tables = figures.get("seconds_ratio_by", {})
    panels = [
        plots.seconds_ratios(f"Predicted over true seconds by {group}", tables[group])
        for group in ("duration", "day")
        if group in tables
    ]
    rows = [
        {
            "name": f"{group}: {row['name']}",
            "cells": [
                {"value": spell(row["impressions"])},
                {"value": _ratio(row["before"])},
                {"value": _ratio(row["after"]), "is_ours": True},
            ],
        }
        for group, table in tables.items()
        for row in table
    ]
    columns = ["impressions", "before calibration", "after calibration"]
    return {
        "plots": draw_panels(panels, columns=len(panels), height=3.4),
        "table": {"columns": columns, "rows": rows} if rows else None,
    }


def _exploration(figures: Figures) -> Section:
    coverage = figures.get("exploration", {}).get("coverage", [])
    if not coverage:
        return {}
    rows = [
        {
            "name": row["name"],
            "cells": [
                {"value": spell(row["impressions"])},
                {"value": _ratio(row["coverage"]), "is_ours": True},
                {"value": _ratio(row["below"])},
                {"value": _ratio(row["above"])},
            ],
        }
        for row in coverage
    ]
    line = "Shares of the test impressions by how many watches of the user were known."
    return {
        "lines": [line, "80 % are meant to lie within, as many below as above."],
        "table": {"columns": ["impressions", "within", "below", "above"], "rows": rows},
    }


def _index(figures: Figures) -> Section:
    measured = figures.get("index") or []
    if not measured:
        return {}
    rows = [
        {
            "name": " ".join(filter(None, (row["kind"], row.get("setting", "")))),
            "cells": [{"value": f"{row[name]:.4f}"} for name in ("recall", "milliseconds")],
            "is_ours": row.get("is_chosen", False),
        }
        for row in measured
    ]
    return {
        "plots": draw_panels([plots.index_trade_off(measured)], columns=1, height=3.4),
        "table": {"columns": ["recall", "milliseconds a query"], "rows": rows},
    }


def _serving(figures: Figures) -> Section:
    serving = figures.get("serving", {})
    facts = [
        facts_of("Candidates dropped, by reason", serving.get("dropped", {})),
        facts_of("Requests answered without a stage", serving.get("degraded", {})),
        facts_of("Milliseconds a request, by stage", serving.get("milliseconds", {})),
    ]
    lines = [f"{serving['requests']:,} requests."] if serving.get("requests") else []
    return {"lines": lines, "facts": [fact for fact in facts if fact["rows"]]}


def _samples(figures: Figures) -> Section:
    return {"samples": list(figures.get("samples", []))}


SECTIONS: tuple[SectionEntry, ...] = (
    ("run", "What was run", "the run is not described", _run),
    ("data", "Data", "no statistics of the log", _data),
    ("training", "Training", "no training curves", _training),
    ("candidates", "Candidate stage", "no candidate metrics", _candidates),
    ("sources", "Candidates by source", "no candidates were counted", _sources),
    ("ranking", "Ranking stage", "the log has no watch time, or ranking is off", _ranking),
    ("seconds", "Expected watch time", "no predicted watch time", _seconds),
    (
        "seconds_ratio_by",
        "Predicted over true watch time",
        "no ratio of predicted and true watch time",
        _seconds_ratio_by,
    ),
    (
        "exploration",
        "Intervals of the neural process",
        "exploration is off",
        _exploration,
    ),
    ("index", "Index", "the index was not measured", _index),
    ("serving", "Drops and degraded answers", "no requests were counted", _serving),
    ("samples", "Samples of recommendations", "none were taken", _samples),
)
"""Key, title, what is missing, and builder of each section, in order."""


def _tiles(figures: Figures) -> list[dict[str, str]]:
    """Return the metrics shown in large at the top."""
    metrics = {**figures.get("candidates", {}), **figures.get("ranking", {})}
    found = [name for name in TILES if isinstance(metrics.get(name), int | float)]
    return [{"label": name, "value": spell(metrics[name])} for name in found]


def draw_panels(panels: list[plots.Draw], *, columns: int = 2, height: float = 2.9) -> list[str]:
    """Draw panels into one SVG element; none where there are none."""
    return [plots.side_by_side(panels, columns=columns, height=height)] if panels else []


def _columns(panels: list[plots.Draw]) -> int:
    """Return three columns, or two where that fills the rows."""
    return 2 if len(panels) in (2, 4) else 3


def facts_of(title: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a small table of names and values under a title."""
    rows = [(name.replace("_", " "), _number(value)) for name, value in values.items()]
    return {"title": title, "rows": rows}


def _numbers(metrics: Mapping[str, Any]) -> list[str]:
    return [name for name, value in metrics.items() if isinstance(value, int | float)]


def _cell(system: str, metrics: Mapping[str, Any], metric: str) -> dict[str, Any]:
    bounds = metrics.get("intervals", {}).get(metric)
    interval = f"{spell(bounds[0])} to {spell(bounds[1])}" if bounds else ""
    is_ours = system == OURS
    return {"value": spell(metrics.get(metric)), "interval": interval, "is_ours": is_ours}


def spell(value: float | None) -> str:
    """Spell a metric with three digits behind the point or more, so that columns compare."""
    if isinstance(value, int):
        return f"{value:,}"
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.3f}"


def _ratio(value: float | None) -> str:
    """Spell a ratio: three digits behind the point on both sides of 1."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _number(value: Any) -> str:
    """Spell a statistic: whole numbers with separators, others short, text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
