"""Who comes to a simulated site when, whatever is shown there.

Letters: U users, S sessions, R pages asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from recsys.core.random import stream
from recsys.data.sources.behaviour import (
    REQUEST_GAP_US,
    SURFACES,
    Finds,
    Sessions,
    draw_finds,
    draw_sessions,
)
from recsys.data.sources.world import DAY_US, LoggingPolicy, World

NOTHING = -1
FIRST_SESSION = 1_000_000
"""Number of a user's first session: the log before has smaller ones, and event ids are for once."""


@dataclass(frozen=True)
class Span:
    """The time of a simulation.

    Args:
        start_us: When its first day begins.
        num_days: How many days it has.
    """

    start_us: int
    num_days: int

    @property
    def end_us(self) -> int:
        """When the last day is over."""
        return self.start_us + self.num_days * DAY_US

    def day_of(self, time_us: np.ndarray) -> np.ndarray:
        """Return the number of the day of moments, -1 outside: int64 [n]."""
        day = (time_us - self.start_us) // DAY_US
        return np.where((day >= 0) & (day < self.num_days), day, NOTHING)


@dataclass(frozen=True)
class Arrivals:
    """R pages asked for, in the order of time.

    Args:
        span: In which all of them lie.
        sessions: Visits, some of which may ask for pages only after the span.
        finds: What was searched and found at the beginning of some sessions.
        session, request: int64 [R], the session that asks and how many pages it had before.
        surface, time_us: int64 [R].
        find: int64 [R], which of the finds came just before, -1 none.
    """

    span: Span
    sessions: Sessions
    finds: Finds
    session: np.ndarray
    request: np.ndarray
    surface: np.ndarray
    time_us: np.ndarray
    find: np.ndarray

    @property
    def user(self) -> np.ndarray:
        """Who asks: int64 [R]."""
        return self.sessions.user[self.session]

    def turns(self, day: int) -> Iterator[np.ndarray]:
        """Yield the pages of a day: each user's first, then each one's second, and so on.

        Users do not see each other, so that those of a turn can be answered together.
        """
        rows = np.flatnonzero(self.span.day_of(self.time_us) == day)
        user = self.user[rows]
        by_user = np.argsort(user, kind="stable")
        ordered = user[by_user]
        turn = np.empty(len(rows), np.int64)
        turn[by_user] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
        for number in range(int(turn.max(initial=-1)) + 1):
            yield rows[turn == number]


def draw_arrivals(
    world: World, users: np.ndarray, span: Span, *, sessions_per_day: float, seed: int
) -> Arrivals:
    """Draw when users come, and what they look for by themselves.

    Args:
        world: Whose users they are.
        users: int64 [U].
        span: Over which they come.
        sessions_per_day: Of a user, on average.
        seed: The same seed gives the same arrivals, whatever is shown.
    """
    sessions = draw_sessions(
        world,
        users,
        sessions_per_day * span.num_days,
        first_us=span.start_us,
        num_days=span.num_days,
        rng=stream(seed, "sessions"),
    )
    sessions = replace(sessions, number=sessions.number + FIRST_SESSION)
    finds = draw_finds(
        world,
        LoggingPolicy(world),
        sessions,
        earliest_us=span.start_us,
        rng=stream(seed, "searches"),
    )
    session, request = sessions.requests()
    surface = stream(seed, "surfaces").integers(len(SURFACES), size=len(session))
    time_us = sessions.start_us[session] + request * REQUEST_GAP_US
    find_of_session = np.full(len(sessions.user), NOTHING)
    find_of_session[finds.session] = np.arange(len(finds.session))
    find = np.where(request == 0, find_of_session[session], NOTHING)
    order = np.lexsort((session, time_us))
    order = order[time_us[order] < span.end_us]
    return Arrivals(
        span=span,
        sessions=sessions,
        finds=finds,
        session=session[order],
        request=request[order],
        surface=surface[order],
        time_us=time_us[order],
        find=find[order],
    )
