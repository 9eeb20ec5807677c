"""A log as a source hands it over: tables with the names of the data contract, not yet checked.

Events and searches come in batches and can be read any number of times, so memory does not grow
with the log. `recsys.data.validation` turns each batch into rows that obey the contract.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

Tables = Callable[[], Iterator[pa.Table]]
"""Starts a new pass over a table, batch by batch."""


def no_tables() -> Iterator[pa.Table]:
    """Yield nothing: the searches of a log without any."""
    return iter(())


@dataclass(frozen=True)
class FileProblems:
    """What could not be read; filled while the tables are, and the same after every pass.

    Args:
        bad_files: File name -> reason. What came before the damage is kept.
        bad_lines: (file name, line number) -> text of a CSV line with a wrong number of fields.
    """

    bad_files: dict[str, str] = field(default_factory=dict)
    bad_lines: dict[tuple[str, int], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """Everything that a source knows.

    Args:
        events: Starts a pass over the events, at least one batch.
        searches: Starts a pass over the searches.
        items: The items table, if the source has one.
        users: The users table, if the source has one.
        truth: What the synthetic source hides from the models (see `sources.synthetic`).
        problems: Unreadable files and lines met so far.
    """

    events: Tables
    searches: Tables = no_tables
    items: pa.Table | None = None
    users: pa.Table | None = None
    truth: dict[str, Any] | None = None
    problems: FileProblems = field(default_factory=FileProblems)
