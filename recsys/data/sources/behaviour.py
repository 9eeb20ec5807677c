"""When the users of the synthetic world come, with what, and what they look for there.

Nothing of it depends on what they are shown, so that the log and a simulation of what another
recommender would have done have the same users in the same moods.

Letters: U users, S sessions.
"""

from dataclasses import dataclass

import numpy as np

from recsys.data.sources.world import DAY_US, LoggingPolicy, World, draw_rows

DEVICES = ("mobile", "desktop", "tv")
SURFACES = ("home", "watch_next")
TOPIC_WORDS = ("news", "guide", "live", "best", "funny", "review")
REQUESTS_PER_SESSION = 2.0
REQUEST_GAP_US = 300_000_000
ITEM_GAP_US = 2_000_000
"""An item comes into view two seconds after the one above it."""

_SEARCH_SHARE = 0.15
_SEARCH_LEAD_US = 60_000_000
_FOUND_AFTER_US = 10_000_000
_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Sessions:
    """S visits of users.

    Args:
        user: int64 [S].
        number: int64 [S], 0, 1, ... within the user.
        start_us: int64 [S].
        num_requests: int64 [S], pages asked for, at least one.
        device: int64 [S].
        is_logged_in, has_search: bool [S].
    """

    user: np.ndarray
    number: np.ndarray
    start_us: np.ndarray
    num_requests: np.ndarray
    device: np.ndarray
    is_logged_in: np.ndarray
    has_search: np.ndarray

    def requests(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the session of each page asked for, and its number there: int64 [R] each."""
        session = np.repeat(np.arange(len(self.user)), self.num_requests)
        return session, np.arange(len(session)) - np.searchsorted(session, session)


@dataclass(frozen=True)
class Finds:
    """Searches at the beginning of F sessions, and the watches that they led to.

    Args:
        session: int64 [F], ascending.
        topic, word: int64 [F], what the query says.
        search_us: int64 [F]; item: int64 [F], watched at `found_us`.
        watch_ms: int64 [F]; liked: bool [F].
    """

    session: np.ndarray
    topic: np.ndarray
    word: np.ndarray
    search_us: np.ndarray
    item: np.ndarray
    watch_ms: np.ndarray
    liked: np.ndarray

    def take(self, chosen: np.ndarray) -> "Finds":
        """Return the chosen ones."""
        return Finds(**{name: values[chosen] for name, values in vars(self).items()})

    @property
    def found_us(self) -> np.ndarray:
        """When the watch began: int64 [F]."""
        return self.search_us + _FOUND_AFTER_US


@dataclass(frozen=True)
class Pages:
    """R pages as they were shown, P places each, and what came of them.

    Args:
        session: int64 [R], which of the sessions asked; request: int64 [R], how many it had asked.
        surface: int64 [R].
        time_us: int64 [R], when they were asked for.
        items: int64 [R, P], -1 where nothing was shown.
        propensity: float64 [R, P], of the item given those above it, NaN where nothing was drawn.
        clicked: bool [R, P]; watch_ms: int64 [R, P]; liked: bool [R, P].
    """

    session: np.ndarray
    request: np.ndarray
    surface: np.ndarray
    time_us: np.ndarray
    items: np.ndarray
    propensity: np.ndarray
    clicked: np.ndarray
    watch_ms: np.ndarray
    liked: np.ndarray

    @property
    def shown_us(self) -> np.ndarray:
        """When each item came into view: int64 [R, P]."""
        return shown_us(self.time_us, self.items.shape[1])


def shown_us(time_us: np.ndarray, num_places: int) -> np.ndarray:
    """Return when each place of pages comes into view: int64 [R] -> [R, P]."""
    return time_us[:, None] + np.arange(num_places) * ITEM_GAP_US


def draw_sessions(
    world: World,
    users: np.ndarray,
    sessions_per_user: float,
    *,
    first_us: int,
    num_days: int,
    rng: np.random.Generator,
) -> Sessions:
    """Draw the visits of users over some days, user after user, each user's by time.

    Args:
        world: Says how often a user comes, relative to the others.
        users: int64 [U].
        sessions_per_user: Mean over users, of all days together.
        first_us: When the first day begins.
        num_days: Length of the span.
        rng: Source of randomness.
    """
    counts = rng.poisson(sessions_per_user * world.activity[users])
    user = np.repeat(users, counts)
    num_sessions = len(user)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    home_device = rng.choice(len(DEVICES), len(users), p=(0.6, 0.25, 0.15))
    is_elsewhere = rng.random(num_sessions) < 0.2
    other_device = rng.integers(len(DEVICES), size=num_sessions)
    start_us = first_us + _visit_times(num_days, num_sessions, rng)
    return Sessions(
        user=user,
        number=np.arange(num_sessions) - first,
        start_us=start_us[np.lexsort((start_us, user))],
        num_requests=rng.geometric(1 / REQUESTS_PER_SESSION, num_sessions),
        device=np.where(is_elsewhere, other_device, np.repeat(home_device, counts)),
        is_logged_in=rng.random(num_sessions) < 0.85,
        has_search=rng.random(num_sessions) < _SEARCH_SHARE,
    )


def draw_finds(
    world: World,
    policy: LoggingPolicy,
    sessions: Sessions,
    *,
    earliest_us: int,
    rng: np.random.Generator,
) -> Finds:
    """Draw what the sessions with a search look for, and find.

    Args:
        world: Whose users search.
        policy: Says what is found of a topic.
        sessions: S of them.
        earliest_us: No search is before it.
        rng: Source of randomness.
    """
    session = np.flatnonzero(sessions.has_search)
    users = sessions.user[session]
    search_us = np.maximum(sessions.start_us[session] - _SEARCH_LEAD_US, earliest_us)
    topic = draw_rows(world.topic_probabilities(users, search_us), rng=rng)
    word = rng.integers(len(TOPIC_WORDS), size=len(session))
    # Uploads end with the log; what is found later was there at its end.
    item = policy.draw_in_topics(topic, np.minimum(search_us, world.end_us), rng=rng)
    affinity = world.affinity(users, item, search_us + _FOUND_AFTER_US)
    return Finds(
        session=session,
        topic=topic,
        word=word,
        search_us=search_us,
        item=item,
        watch_ms=world.draw_watch_ms(affinity, item, rng=rng),
        liked=rng.random(len(session)) < 0.1,
    )


def _visit_times(num_days: int, num_sessions: int, rng: np.random.Generator) -> np.ndarray:
    """Draw when sessions begin, since the first day, most of them in the evening: int64 [S]."""
    day = rng.integers(num_days, size=num_sessions)
    hour = rng.normal(19.0, 4.0, num_sessions) % 24
    return day * DAY_US + (hour * _HOUR_US).astype(np.int64)
