"""What the doctor found, and how it is shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Verdict = Literal["good", "absent", "warning", "problem"]
MARKS: dict[Verdict, tuple[str, str]] = {
    "good": ("✓", "green"),
    "absent": ("-", "dim"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "red"),
}
NAME_WIDTH = 18


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        section: installation, settings, bundle, store or server.
        name: What was looked at.
        verdict: Whether it is good; absent is what may be, and is not.
        found: What is there.
        remedy: What to do about it, where there is something to do.
    """

    section: str
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def count(findings: Sequence[Finding], verdict: Verdict) -> int:
    """Return how many findings have a verdict."""
    return sum(finding.verdict == verdict for finding in findings)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as a JSON-able object."""
    return {
        "problems": count(findings, "problem"),
        "warnings": count(findings, "warning"),
        "findings": [asdict(finding) for finding in findings],
    }


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings by section, each with its remedy below, and how many are bad."""
    for section in dict.fromkeys(finding.section for finding in findings):
        console.print(Text(section, style="bold"))
        console.print(_table([each for each in findings if each.section == section]))
        console.print()
    problems, warnings = count(findings, "problem"), count(findings, "warning")
    style = "red" if problems else "yellow" if warnings else "green"
    line = f"{_plural(problems, 'problem')}, {_plural(warnings, 'warning')}"
    console.print(Text(line if problems or warnings else "all good", style=style))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=2, justify="right")
    table.add_column(width=NAME_WIDTH)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.verdict]
        found = Text(finding.found, style="dim" if finding.verdict == "absent" else "")
        table.add_row(Text(mark, style=style), finding.name, found)
        if finding.remedy:
            table.add_row("", "", Text(f"→ {finding.remedy}", style=style))
    return table


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
