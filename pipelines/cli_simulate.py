"""The command `recsys simulate`: two bundles in, what users would really have watched out."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from recsys.errors import ConfigError
from recsys.settings import SimulationSettings

RETRAIN = {"never": None, "every-day": 1}


def simulate(
    first: Annotated[Path, typer.Argument(metavar="A", help="Bundle that is served now.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Bundle that might be.")],
    days: Annotated[int, typer.Option("--days", min=1, help="How long.")] = 7,
    users: Annotated[
        int | None, typer.Option("--users", min=4, help="For how many; default: all of the world.")
    ] = None,
    retrain: Annotated[
        str, typer.Option("--retrain", help="never, every-day, or every so many days.")
    ] = "never",
    seed: Annotated[int, typer.Option("--seed", help="Of all chance.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", help="Directory of simulation.html and simulation.json.")
    ] = Path("simulation"),
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Let two bundles of one synthetic world serve its users; exit status 0 whichever is better."""
    from pipelines import simulate as simulating

    settings = SimulationSettings(
        days=days, users=users, retrain_days=_retrain_days(retrain), seed=seed
    )
    figures = simulating.main([first, second], out, settings, _announce)
    if as_json:
        print(json.dumps(figures))
    else:
        show(figures, Console(highlight=False))
        print(f"\nreport: {out / 'simulation.html'}")


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print what matters in a few lines.

    Args:
        figures: As `recsys.evaluation.simulation_report` describes them.
        console: To print on.
    """
    test, trend, catalogue = figures["test"], figures["trend"], figures["catalogue"]
    value, low, high = test["difference"]
    is_held = "holds" if test["holds_truth"] else "does not hold"
    console.print(f"[bold]{figures['verdict']}[/bold]\n")
    console.print(
        f"test      B less A {value:+.2f} seconds a user and day ({low:+.2f} to {high:+.2f}), "
        f"p = {test['p_value']:.3f}; {is_held} the truth, {test['true']:+.2f}"
    )
    if trend:
        console.print(f"by day    {trend['reading']}, {trend['slope']:+.3f} a day")
    for side, facts in figures["sides"].items():
        console.print(
            f"{side}         {facts['name']}: {facts['pages']:,} pages, "
            f"{facts['degraded']:,} degraded, {len(facts['bundle_ids'])} bundles; "
            f"{100 * catalogue['watched_share'][side][-1]:.1f} % of the items watched, "
            f"Gini {catalogue['gini'][side][-1]:.3f}",
            markup=False,
        )
    for side, found in figures["off_policy"].items():
        for what, estimate in found.items():
            spelled = ", ".join(
                f"{name} {bounds[0]:.2f} ({bounds[1]:.2f} to {bounds[2]:.2f})"
                for name, bounds in estimate["estimates"].items()
            )
            console.print(
                f"log       {side}, {what.replace('_', ' ')}: true {estimate['true']:.2f} seconds; "
                f"{spelled or 'refused: ' + estimate['refused']}",
                markup=False,
            )


def _retrain_days(text: str) -> int | None:
    if text in RETRAIN:
        return RETRAIN[text]
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"--retrain: expected never, every-day or a number of days, got {text!r}")
    return int(text)


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
