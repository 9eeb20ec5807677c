"""The log and how it is cut: `[data]` and `[split]`."""

from typing import Literal

from pydantic import Field

from recsys.settings.base import Settings


class WatchRule(Settings):
    """Which events are positive watches: a label column, or thresholds on the watch time.

    With a `column`, its value decides where it is present. Elsewhere the thresholds do: watched
    for at least `min_ms` or at least `min_fraction` of the duration, whichever is reached. An
    event whose watch time is unknown is a watch only if `unknown_is_watch`.
    """

    column: str | None = None
    min_ms: int = Field(default=1, ge=0)
    min_fraction: float | None = Field(default=None, gt=0)
    unknown_is_watch: bool = False


class DataSettings(Settings):
    """Where the log comes from, and how it is checked and laid out."""

    source: Literal["synthetic", "kuairand", "movielens", "globo", "sequences", "served", "table"]
    path: str | None = None
    """Folder or file of the log; the synthetic source has none."""
    options: dict[str, str | int | float | bool | list[str] | dict[str, str]] = {}
    """What only this source understands: see the docstring of its module."""
    watch: WatchRule = WatchRule()
    earliest_time: str | None = None
    latest_time: str | None = None
    """ISO times (UTC); events outside are rejected."""
    max_rejected_share: float = Field(default=0.05, ge=0, le=1)
    shards: int = Field(default=4, ge=1)
    processes: int = Field(default=2, ge=1)
    max_items: int = Field(default=1_000_000, ge=1)
    """Items with a trained row; rarer ones are served from the catalogue without one."""
    min_item_watches: int = Field(default=1, ge=1)
    max_vocabulary: int = Field(default=1_000_000, ge=1)
    """Rows of every other vocabulary (users, search tokens, channels, ...)."""


class SplitSettings(Settings):
    """How the log is cut into training, validation and test.

    `leave_one_out`: of each user's watches the last is test, the one before it validation.
    `time`: events from `validation_from` on are validation, from `test_from` on test; both are
    ISO times (UTC), or dates compared with the `split_date` column where the source gives one.
    """

    kind: Literal["leave_one_out", "time"]
    validation_from: str | None = None
    test_from: str | None = None
    test_until: str | None = None
    """Events from here on are left out. Same form as `test_from`."""
    targets: Literal["all", "last_of_session"] = "all"
    """Which held-out watches the candidate stage is asked for. `last_of_session`: the last of
    each session of two watches or more."""
