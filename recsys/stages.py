"""What goes through the stages of answering, and what is noted on the way: failures, seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from recsys.requests import Request
from recsys.user_views import UserViews

TimeRemaining = Callable[[], float]
"""Seconds until the caller stops waiting."""

SAFETY = 1.5
"""A stage is skipped if less than this many times its usual seconds are left."""
NO_TIME = "no time left"


@dataclass
class Trace:
    """What happened on the way to a batch of answers.

    Args:
        failures: Stage that was replaced by something simpler -> why.
        seconds: Stage -> wall-clock seconds.
    """

    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time of a stage that runs once a request."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


@dataclass(frozen=True)
class Batch:
    """Requests that are answered together.

    Args:
        requests: Q of them.
        users: As of each.
        trace: Is added to.
        time_remaining: None for no deadline.
    """

    requests: Sequence[Request]
    users: UserViews
    trace: Trace
    time_remaining: TimeRemaining | None = None


class Clock:
    """Knows how long a stage usually takes a request."""

    def __init__(self) -> None:
        self._usual_seconds = 0.0

    def is_late(self, time_remaining: TimeRemaining | None) -> bool:
        """Say whether the stage no longer fits."""
        return time_remaining is not None and time_remaining() < SAFETY * self._usual_seconds

    def note(self, seconds: float, num_requests: int) -> None:
        """Take how long it took so many requests together."""
        self._usual_seconds += 0.1 * (seconds / num_requests - self._usual_seconds)
