"""The log of answers: written in the background, never waited for.

Answers wait in a queue of bounded length; one that is full drops what comes and counts it. Every
`flush_seconds`, or earlier where many wait, a thread writes them to a Parquet file
(`recsys.data.answers`) under a hidden name and renames it, so that no reader meets half a file. A
kill loses what waited: the answers of at most `flush_seconds`, and of the writing.

A deleted user is noted in `.deleted/` at once, durably, and taken out of what waits and of all
files when next it is written, also after a restart.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artefacts import sync_directory
from recsys.data.answer_files import ANSWERS, answer_files, file_name
from recsys.data.schema import with_version
from recsys.errors import ConfigError
from recsys.experiment.assignment import Split
from recsys.requests import RankedItem, Recommendation, Request
from recsys.settings import OrderSettings
from serving.metrics import Metrics
from serving.settings import AnswerLogSettings

MAX_WAITING = 5_000
FLUSH_AT = 1_000
"""So many that wait are written at once."""
DELETED_SECONDS = 3600
"""How long a deleted user stays noted, for the other processes that write to the directory."""
MICROSECONDS = 1_000_000
SECONDS_OF_DAY = 86_400
CONTEXT = ("surface", "device", "country", "language", "gender", "age", "current_item_id")


@dataclass(frozen=True)
class LoggedAnswer:
    """An answer as it is handed to the log.

    Args:
        request: As the bundle was asked, with its request id.
        answer: As it answered, perhaps with more items than were returned.
        bundle_id: Which bundle.
        order: How it draws orders.
        num_items: Of the answer's items so many were returned.
        has_features: Whether the items' features are logged.
        has_candidates: Whether the answer's items are all candidates.
    """

    request: Request
    answer: Recommendation
    bundle_id: str
    order: OrderSettings
    num_items: int
    has_features: bool
    has_candidates: bool


class AnswerLog:
    """Writes answers to a directory.

    Args:
        settings: Where, how often, how much.
        metrics: Told how many answers were written, dropped, or could not be written.
        logger: Told (`answers`) why they could not.
        clock: Returns microseconds since the epoch.

    Raises:
        ConfigError: The directory cannot be made or written.
    """

    def __init__(
        self,
        settings: AnswerLogSettings,
        metrics: Metrics,
        logger: Any,
        clock: Callable[[], int],
    ) -> None:
        self._settings, self._metrics, self._logger = settings, metrics, logger
        self._clock, self._directory = clock, settings.directory
        self._deleted = settings.directory / ".deleted"
        self._waiting: deque[LoggedAnswer] = deque()
        self._taken_out: set[str] = set()
        self._wake, self._is_stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        try:
            self._deleted.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"answer_log.directory: {error}; expected one to write to") from error
        self._features = _share("answer-log features", settings.feature_share)
        self._candidates = _share("answer-log candidates", settings.candidate_share)

    def has_features(self, request_id: str) -> bool:
        """Say whether the features of a request's items are to be logged."""
        return self._features.arm_of(request_id) is not None

    def has_candidates(self, request_id: str) -> bool:
        """Say whether all candidates of a request are to be logged."""
        return self._candidates.arm_of(request_id) is not None

    def add(self, logged: LoggedAnswer) -> None:
        """Take an answer if there is room; never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self._metrics.count_logged_answers("dropped", 1)
            return
        self._waiting.append(logged)
        if len(self._waiting) >= FLUSH_AT:
            self._wake.set()

    def forget_user(self, user_id: str) -> None:
        """Note that a user's answers up to now are to go; they are gone after the next flush."""
        content = json.dumps({"user_id": user_id, "until": self._clock()})
        target = self._deleted / _note_name(user_id)
        _write(target, lambda path: path.write_text(content, encoding="utf-8"))
        self._taken_out.discard(user_id)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._is_stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Write what waits; drop what is too old, and users who were deleted."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            deleted = self._read_deleted()
            kept = [each for each in taken if not _is_deleted(each, deleted)]
            if kept:
                self._write_file(to_table(kept))
            self._metrics.count_logged_answers("written", len(kept))
            taken = []
            self._drop_old()
            self._rewrite(deleted)
        except (OSError, pa.ArrowException) as error:  # a full disk must cost the log, no answer
            self._metrics.count_logged_answers("failed", len(taken))
            self._logger.error("answers", error=str(error), lost=len(taken))

    def _run(self) -> None:
        while not self._is_stopping:
            self._wake.wait(self._settings.flush_seconds)
            self._wake.clear()
            self.flush()

    def _write_file(self, table: pa.Table) -> None:
        first, last = _span(table)
        path = self._directory / file_name(first, last, uuid4().hex[:12])
        _write(path, lambda hidden: pq.write_table(with_version(table), hidden))

    def _drop_old(self) -> None:
        if self._settings.keep_days is None:
            return
        oldest = self._clock() - self._settings.keep_days * SECONDS_OF_DAY * MICROSECONDS
        for path, (_, last) in answer_files(self._directory).items():
            if last < oldest:
                path.unlink(missing_ok=True)

    def _read_deleted(self) -> dict[str, int]:
        """Return the users to be forgotten, each with the moment until which."""
        contents = [json.loads(path.read_text(encoding="utf-8")) for path in self._notes()]
        return {content["user_id"]: content["until"] for content in contents}

    def _notes(self) -> list[Path]:
        return sorted(self._deleted.glob("[0-9a-f]*"))

    def _rewrite(self, deleted: dict[str, int]) -> None:
        """Take deleted users out of all files.

        Once when they are new, and once more before they are no longer noted: another process may
        have written answers meanwhile that it had taken before the note was there.
        """
        old = self._clock() - DELETED_SECONDS * MICROSECONDS
        expiring = {user for user, until in deleted.items() if until < old}
        changing = (deleted.keys() - self._taken_out) | expiring
        if changing:
            with _locked(self._directory / ".lock"):
                for path, (first, _) in answer_files(self._directory).items():
                    if first <= max(deleted[user] for user in changing):
                        _take_out(path, {user: deleted[user] for user in changing})
        for user in expiring:
            (self._deleted / _note_name(user)).unlink(missing_ok=True)
        self._taken_out = deleted.keys() - expiring


def to_table(answers: list[LoggedAnswer]) -> pa.Table:
    """Return answers as a table, by time."""
    answers = sorted(answers, key=lambda each: each.request.now)
    return pa.Table.from_pylist([_to_row(each) for each in answers], schema=ANSWERS)


def without_explanations(answer: Recommendation, num_items: int, *, kept: bool) -> Recommendation:
    """Return an answer as its caller asked for it, if it was asked for more for the log."""
    items = answer.items[:num_items]
    if not kept and any(item.explanation is not None for item in items):
        items = tuple(item._replace(explanation=None) for item in items)
    return replace(answer, items=items)


def _to_row(logged: LoggedAnswer) -> dict[str, Any]:
    request, answer = logged.request, logged.answer
    is_drawn = any(item.propensity is not None for item in answer.items)
    logged_in = request.context.get("logged_in")
    ranked = [_ranked(item, position) for position, item in enumerate(answer.items)]
    items = [
        row | {"features": _features(item) if logged.has_features else None}
        for row, item in zip(ranked[: logged.num_items], answer.items, strict=False)
    ]
    return {
        "user_id": request.user.user_id,
        "request_id": request.request_id,
        "answer_time": request.now,
        "bundle_id": logged.bundle_id,
        "policy": logged.order.policy if is_drawn else "greedy",
        "temperature": logged.order.temperature if is_drawn else None,
        **{name: request.context.get(name) for name in CONTEXT},
        "logged_in": None if logged_in is None else logged_in == "true",
        "degraded_stages": list(answer.degraded_stages),
        "num_candidates": answer.num_candidates,
        "items": items,
        "candidates": ranked if logged.has_candidates else None,
    }


def _ranked(item: RankedItem, position: int) -> dict[str, Any]:
    why = item.explanation
    return {
        "item_id": item.item_id,
        "position": position,
        "propensity": item.propensity,
        "expected_watch_seconds": item.expected_watch_seconds,
        "source": item.source,
        "candidate_score": why and why.candidate_score,
        "candidate_rank": why and why.candidate_rank,
    }


def _features(item: RankedItem) -> list[dict[str, Any]] | None:
    if item.explanation is None:
        return None
    return [
        {"name": name, "text": value} if isinstance(value, str) else {"name": name, "number": value}
        for name, value in item.explanation.features.items()
    ]


def _note_name(user_id: str) -> str:
    return hashlib.blake2b(user_id.encode(), digest_size=16).hexdigest()


def _share(salt: str, share: float) -> Split:
    return Split(salt, {"logged": 1.0}, exposure=share)


def _is_deleted(logged: LoggedAnswer, deleted: dict[str, int]) -> bool:
    return logged.request.now <= deleted.get(logged.request.user.user_id, -1)


def _span(table: pa.Table) -> tuple[int, int]:
    bounds = pc.min_max(table["answer_time"].cast(pa.int64())).as_py()
    return bounds["min"], bounds["max"]


def _take_out(path: Path, deleted: dict[str, int]) -> None:
    """Write a file anew without some users' answers, if it has any; an empty one is removed."""
    try:
        users = pq.read_table(path, columns=["user_id"])["user_id"]
        if not pc.any(pc.is_in(users, pa.array(deleted, pa.string()))).as_py():
            return
        table = pq.read_table(path)
    except FileNotFoundError:  # another process found it too old
        return
    until = pa.array([deleted.get(user, -1) for user in users.to_pylist()], pa.int64())
    kept = table.filter(pc.greater(table["answer_time"].cast(pa.int64()), until))
    if len(kept):
        _write(path, lambda hidden: pq.write_table(kept, hidden))
    else:
        path.unlink(missing_ok=True)


def _write(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a hidden name, on disk, then put it in place."""
    hidden = target.with_name(f".{uuid4().hex}.partial")
    try:
        write(hidden)
        hidden.chmod(0o600)
        with hidden.open("rb") as file:
            os.fsync(file.fileno())
        hidden.replace(target)
    finally:
        hidden.unlink(missing_ok=True)
    sync_directory(target.parent)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
