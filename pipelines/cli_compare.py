"""The command `recsys compare`: two bundles and a log in, a verdict out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipelines.config import load_comparison_settings

NUM_SEGMENTS = 6
"""Shown on the terminal, those that differ most surely; the report has all."""


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Bundle that is served now.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Bundle that might be.")],
    log: Annotated[Path, typer.Option("--log", help="A prepared directory, or that of a run.")],
    out: Annotated[
        Path, typer.Option("--out", help="Directory of compare.html and compare.json.")
    ] = Path("comparison"),
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file, see docs/experiments.md.")
    ] = None,
    overrides: Annotated[list[str], typer.Option("--set", help="key=value, may be repeated.")] = [],  # noqa: B006  # typer reads the default, nobody changes it
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Compare two bundles over one log; exit status 0 whichever is better."""
    from pipelines import compare as comparing

    settings = load_comparison_settings(config, overrides)
    figures = comparing.main([first, second], log, out, settings)
    if as_json:
        print(json.dumps(figures))
    else:
        show(figures, Console(highlight=False))
        print(f"\nreport: {out / 'compare.html'}")


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print what matters in 80 columns: verdict, metrics, guardrails, segments that differ.

    Args:
        figures: As `recsys.evaluation.comparison_report` describes them.
        console: To print on.
    """
    from recsys.evaluation.comparison_report import differing_segments

    console.print(f"[bold]{figures['verdict']}[/bold]\n")
    for side, facts in figures["sides"].items():
        console.print(f"{side}  {facts['name']}, bundle {facts['bundle_id'][:12]}", markup=False)
        for stage, number in facts["degraded"].items():
            console.print(f"   [bold]{number:,} answers without {stage}[/bold]")
    winners = figures["winners"]
    console.print(
        f"{figures['requests']:,} requests of {figures['users']:,} users: B better for "
        f"{winners['B']:,}, A for {winners['A']:,}, alike for {winners['equal']:,}\n"
    )
    console.print(_changes(figures))
    if figures["guardrails"]:
        console.print(_guardrails(figures))
    found = sorted(differing_segments(figures), key=lambda each: each["adjusted_p_value"])
    number = len(figures["segments"])
    console.print(f"\n{len(found)} of {number} segments differ", end="")
    console.print(":" if found else ".")
    for each in found[:NUM_SEGMENTS]:
        console.print(f"  {each['name']:<40} {_signed(each['difference'])}", markup=False)
    if figures["ranking_left_out"]:
        console.print(f"Rankers not compared: {figures['ranking_left_out']}.", markup=False)
    console.print(figures["off_policy"], markup=False)


def _changes(figures: Mapping[str, Any]) -> Table:
    table = _new_table("", "A", "B", "B less A")
    for group in ("metrics", "ranking", "exposure"):
        for name, change in figures[group].items():
            values = (_spelled(change["A"]), _spelled(change["B"]), _signed(change["difference"]))
            table.add_row(name, *values)
    for name, bounds in figures["overlap"].items():
        table.add_row(name, "", "", f"{_spelled(bounds[0])} in common")
    return table


def _guardrails(figures: Mapping[str, Any]) -> Table:
    table = _new_table("guardrail", "margin", "change of B", "")
    for each in figures["guardrails"]:
        change = each["lift"][0]
        spelled = "unknown" if change is None else f"{100 * change:+.1f} %"
        style = "bold" if each["state"] == "broken" else ""
        table.add_row(
            each["metric"], f"{100 * each['margin']:g} %", spelled, each["state"], style=style
        )
    return table


def _new_table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _spelled(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _signed(bounds: list[float | None]) -> str:
    value, low, high = (None if bound is None else f"{bound:+.4f}" for bound in bounds)
    if value is None:
        return "–"
    return value if low is None else f"{value} ({low} to {high})"
