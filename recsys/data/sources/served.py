"""What a server answered, joined with what its users did: the log that the next bundle learns from.

`path` is a folder. Options:

  `events`: folder below it of recorded events (`recsys state export-events`), "events" by default.
  `answers`: folder of the log of answers (`recsys serve --answer-log`), "answers" by default; a
      path from the root is taken as it is.
  `items`, `users`: files or folders below `path`, in the columns of the contract.
  `max_answer_hours`: how long before an impression the answer may be that showed it, where the
      impression does not name its request; 24 by default.

Impressions get `request_id`, `position`, `propensity`, `policy`, the context of the request, and
`bundle_id` as a further column (`recsys.data.answers`). Those that no answer is known of stay as
they are.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.answers import join_answers, read_shown
from recsys.data.files import find_files, read_files, read_whole
from recsys.data.log import FileProblems, Log
from recsys.data.sources.columns import check_options, log_path, text_option
from recsys.errors import ConfigError
from recsys.settings import DataSettings

_OPTIONS = ("events", "answers", "items", "users", "max_answer_hours")
_HOURS = 24


def read(settings: DataSettings, seed: int) -> Log:
    """Open the events and the answers that the options name; `seed` is not used."""
    del seed
    check_options(settings, _OPTIONS)
    path = log_path(settings)
    files = find_files(path / text_option(settings, "events", "events"))
    answers = path / text_option(settings, "answers", "answers")
    if not answers.is_dir():
        raise ConfigError(f"data.options.answers: expected a folder, found none at {answers}")
    max_age = timedelta(hours=_max_hours(settings))
    problems = FileProblems()

    def events() -> Iterator[pa.Table]:
        for batch in read_files(files, problems):
            yield _joined(batch, answers, max_age)

    def whole(key: str) -> pa.Table | None:
        if key not in settings.options:
            return None
        return read_whole(find_files(path / text_option(settings, key, "")), problems)

    return Log(events=events, items=whole("items"), users=whole("users"), problems=problems)


def _joined(events: pa.Table, answers: Path, max_age: timedelta) -> pa.Table:
    """Join a batch with the answers of its time: as exported, a batch is short in time."""
    span = pc.min_max(events["event_time"].cast(pa.int64())).as_py()
    microsecond = timedelta(microseconds=1)
    first = span["min"] - max_age // microsecond
    return join_answers(events, read_shown(answers, first, span["max"]), max_age)


def _max_hours(settings: DataSettings) -> float:
    value = settings.options.get("max_answer_hours", _HOURS)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ConfigError(f"data.options.max_answer_hours: expected hours above 0, got {value!r}")
    return value
