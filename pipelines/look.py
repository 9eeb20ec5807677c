"""Check a log without preparing it: what `recsys data validate` prints."""

from collections import Counter
from typing import Any

import pyarrow as pa

from recsys.data.sources import open_log
from recsys.data.validation import (
    Validated,
    reject_duplicates,
    validate_events,
    validate_items,
    validate_searches,
    validate_users,
)
from recsys.progress import progress
from recsys.settings import DataSettings


def validate_log(settings: DataSettings) -> dict[str, Any]:
    """Check every table of a log, and duplicates within batches of its events.

    Returns:
        `rows`, `rejected` (counts by table), `reasons` (table -> reason -> rows), `odd` (kept
        but strange values), `bad_files` (file -> reason).

    Raises:
        DataError: A required column is missing or of a wrong type.
    """
    log = open_log(settings, seed=0)
    summary = _Summary()
    with progress("check events") as task:
        for batch in log.events():
            validated = validate_events(batch, settings)
            summary.add("events", batch, validated)
            summary.add_rejects("events", reject_duplicates(validated.accepted))
            task.advance(len(batch))
    for batch in log.searches():
        summary.add("searches", batch, validate_searches(batch, settings))
    for name, table, check in (
        ("items", log.items, validate_items),
        ("users", log.users, validate_users),
    ):
        if table is not None:
            summary.add(name, table, check(table))
    return summary.result(dict(log.problems.bad_files))


class _Summary:
    """Adds up what came of batches."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._reasons: dict[str, Counter[str]] = {}
        self._odd: Counter[str] = Counter()

    def add(self, name: str, table: pa.Table, validated: Validated) -> None:
        self._rows[name] += len(table)
        self._odd.update(validated.odd)
        self.add_rejects(name, validated)

    def add_rejects(self, name: str, validated: Validated) -> None:
        self._reasons.setdefault(name, Counter()).update(validated.reasons)

    def result(self, bad_files: dict[str, str]) -> dict[str, Any]:
        reasons = {name: dict(counts) for name, counts in self._reasons.items() if counts}
        return {
            "rows": dict(self._rows),
            "rejected": {name: sum(counts.values()) for name, counts in reasons.items()},
            "reasons": reasons,
            "odd": dict(self._odd),
            "bad_files": bad_files,
        }
