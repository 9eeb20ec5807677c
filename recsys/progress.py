"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")
LINE_SECONDS = 5.0
"""Between two plain lines."""


class ProgressTask:
    """One piece of work under way; `advance` it, and show the latest figures beside it."""

    def __init__(self, description: str, total: int | None, stream: TextIO) -> None:
        self._description, self._total, self._stream = description, total, stream
        self._done = 0
        self._figures = ""
        self._started = self._printed = time.monotonic()
        self._bar = _new_bar(stream) if stream.isatty() else None
        self._task = self._bar.add_task(description, total=total, figures="") if self._bar else None

    def __enter__(self) -> "ProgressTask":
        """Start showing."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop showing; off a terminal, work of two seconds or more ends with a line."""
        if self._bar:
            self._bar.stop()
        elif error[0] is None and time.monotonic() - self._started >= 2:
            self._print_line()

    def advance(self, amount: int = 1, **figures: float) -> None:
        """Count work done.

        Args:
            amount: How much.
            figures: Latest values to show, by name (`loss`, `examples_per_second`).
        """
        self._done += amount
        if figures:
            self._figures = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=amount, figures=self._figures)
        elif time.monotonic() - self._printed >= LINE_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        of_total = f"/{self._total:,}" if self._total else ""
        seconds = self._printed - self._started
        line = f"{self._description}: {self._done:,}{of_total} in {seconds:.0f} s {self._figures}"
        print(line.rstrip(), file=self._stream, flush=True)


def progress(description: str, total: int | None = None) -> ProgressTask:
    """Return a task to be used in a `with` block; it writes to standard error."""
    return ProgressTask(description, total, sys.stderr)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, showing how many are done."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(description, total) as task:
        for item in items:
            yield item
            task.advance()


def _new_bar(stream: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(file=stream),
    )
