"""A synthetic log: pages of impressions, clicks, watches and searches from a hidden world.

`recsys.data.sources.world` has the model. Users are generated in blocks, each from its own
random stream, so memory does not grow with the log and every pass gives the same rows.

Options: `users` (2,000), `items` (1,000), `days` (14): sizes of the world, which begins on
2026-01-01. `events` (60 a user): about how many impressions there are.

`Log.truth` holds the arrays of the world by name, and under "world" the `World` itself, whose
`expected_watch_ms` and `click_probability` are the answers a model should come near to. Users
and items are numbered as in their ids: 'u7' is row 7, 'i12' is row 12.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.log import Log
from recsys.data.schema import TIME
from recsys.data.sources.columns import check_options, constant
from recsys.data.sources.world import (
    PAGE_SIZE,
    LoggingPolicy,
    World,
    draw_rows,
    make_world,
)
from recsys.errors import ConfigError
from recsys.settings import DataSettings

_COUNTRIES = ("BR", "DE", "FR", "IN", "JP", "US")
_LANGUAGES = ("pt", "de", "fr", "hi", "ja", "en")
_GENDERS = ("female", "male")
_DEVICES = ("mobile", "desktop", "tv")
_SURFACES = ("home", "watch_next")
_TOPIC_WORDS = ("news", "guide", "live", "best", "funny", "review")

_BLOCK_EVENTS = 200_000
_REQUESTS_PER_SESSION = 2.0
_SEARCH_SHARE = 0.15
_SESSIONS, _IMPRESSIONS, _SEARCHES = 1, 2, 3
"""Random streams of a block: one a kind, so that each can be generated alone."""


@dataclass(frozen=True)
class Sessions:
    """S visits of the users of one block.

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

    def ids(self) -> pa.Array:
        """Return the session ids: 's7-0' is the first of user 7."""
        return _join("s", _text(self.user), "-", _text(self.number))


def read(settings: DataSettings, seed: int) -> Log:
    """Draw the world of a seed; its events and searches are generated as they are read."""
    check_options(settings, ("users", "items", "days", "events"))
    num_users = _count(settings, "users", 2_000, at_least=1)
    world = make_world(
        num_users=num_users,
        num_items=_count(settings, "items", 1_000, at_least=40),
        num_days=_count(settings, "days", 14, at_least=1),
        num_countries=len(_COUNTRIES),
        seed=seed,
    )
    policy = LoggingPolicy(world)
    events_per_user = _count(settings, "events", 60 * num_users, at_least=1) / num_users
    sessions_per_user = events_per_user / (_REQUESTS_PER_SESSION * PAGE_SIZE)
    block_users = max(1, int(_BLOCK_EVENTS / events_per_user))

    def blocks() -> Iterator[tuple[int, Sessions]]:
        for block, first in enumerate(range(0, num_users, block_users)):
            users = np.arange(first, min(first + block_users, num_users))
            rng = _stream(seed, block, _SESSIONS)
            yield block, _sessions(world, users, sessions_per_user, rng)

    def events() -> Iterator[pa.Table]:
        for block, sessions in blocks():
            _, found = _searches(world, policy, sessions, _stream(seed, block, _SEARCHES))
            shown = _impressions(world, policy, sessions, _stream(seed, block, _IMPRESSIONS))
            yield pa.concat_tables([shown, found])

    def searches() -> Iterator[pa.Table]:
        for block, sessions in blocks():
            yield _searches(world, policy, sessions, _stream(seed, block, _SEARCHES))[0]

    truth = {field.name: getattr(world, field.name) for field in fields(world)}
    return Log(
        events, searches, items=_items(world), users=_users(world), truth={**truth, "world": world}
    )


def _count(settings: DataSettings, key: str, default: int, *, at_least: int) -> int:
    value = settings.options.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ConfigError(
            f"data.options.{key}: expected a whole number, at least {at_least}, got {value!r}"
        )
    return value


def _stream(seed: int, block: int, kind: int) -> np.random.Generator:
    return np.random.default_rng([seed, kind, block])


def _sessions(
    world: World, users: np.ndarray, sessions_per_user: float, rng: np.random.Generator
) -> Sessions:
    counts = rng.poisson(sessions_per_user * world.activity[users])
    user = np.repeat(users, counts)
    num_sessions = len(user)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    home_device = rng.choice(len(_DEVICES), len(users), p=(0.6, 0.25, 0.15))
    is_elsewhere = rng.random(num_sessions) < 0.2
    other_device = rng.integers(len(_DEVICES), size=num_sessions)
    start_us = _visit_times(world, num_sessions, rng)
    return Sessions(
        user=user,
        number=np.arange(num_sessions) - first,
        start_us=start_us[np.lexsort((start_us, user))],
        num_requests=rng.geometric(1 / _REQUESTS_PER_SESSION, num_sessions),
        device=np.where(is_elsewhere, other_device, np.repeat(home_device, counts)),
        is_logged_in=rng.random(num_sessions) < 0.85,
        has_search=rng.random(num_sessions) < _SEARCH_SHARE,
    )


def _visit_times(world: World, num_sessions: int, rng: np.random.Generator) -> np.ndarray:
    """Draw when sessions begin, most of them in the evening: int64 [S]."""
    hour_us, day_us = 3_600_000_000, 24 * 3_600_000_000
    day = rng.integers((world.end_us - world.start_us) // day_us, size=num_sessions)
    hour = rng.normal(19.0, 4.0, num_sessions) % 24
    return world.start_us + day * day_us + (hour * hour_us).astype(np.int64)


def _impressions(
    world: World, policy: LoggingPolicy, sessions: Sessions, rng: np.random.Generator
) -> pa.Table:
    session = np.repeat(np.arange(len(sessions.user)), sessions.num_requests)
    request = np.arange(len(session)) - np.searchsorted(session, session)
    request_us = sessions.start_us[session] + request * 300_000_000
    users = sessions.user[session]
    # Uploads end with the log; a page asked for later is drawn from what was there at its end.
    policy_us = np.minimum(request_us, world.end_us)
    items, propensity = policy.draw_pages(
        world.topic_probabilities(users, policy_us), policy_us, rng=rng
    )
    surface = rng.integers(len(_SURFACES), size=len(session))
    page = np.repeat(np.arange(len(session)), PAGE_SIZE)
    position = np.tile(np.arange(PAGE_SIZE), len(session))
    request_id = _join(sessions.ids().take(pa.array(session)), "-", _text(request))
    row_request_id = request_id.take(pa.array(page))
    details = {
        "request_id": row_request_id,
        "event_id": _join(row_request_id, "-", _text(position)),
        "position": pa.array(position.astype(np.int16)),
        "surface": _pick(_SURFACES, surface[page]),
        "propensity": pa.array(propensity.ravel().astype(np.float32)),
        "policy": constant("topic_mixture", len(page)),
        "is_impression": constant(True, len(page)),
    }
    # An item comes into view two seconds after the one above it.
    time_us = request_us[page] + position * 2_000_000
    outcomes = world.draw_outcomes(users[page], items.ravel(), position, time_us, rng=rng)
    return _events(world, sessions, session[page], items.ravel(), time_us, outcomes, details)


def _searches(
    world: World, policy: LoggingPolicy, sessions: Sessions, rng: np.random.Generator
) -> tuple[pa.Table, pa.Table]:
    """Return the searches, and the watches that they led to ten seconds later."""
    session = np.flatnonzero(sessions.has_search)
    users, time_us = sessions.user[session], sessions.start_us[session] - 60_000_000
    time_us = np.maximum(time_us, world.start_us)
    topics = draw_rows(world.topic_probabilities(users, time_us), rng=rng)
    word = _pick(_TOPIC_WORDS, rng.integers(len(_TOPIC_WORDS), size=len(session)))
    query = _join("topic", _text(topics), " ", word)
    searches = pa.table(
        {"user_id": _join("u", _text(users)), "event_time": _times(time_us), "query": query}
    )
    items = policy.draw_in_topics(topics, time_us, rng=rng)
    found_us = time_us + 10_000_000
    affinity = world.affinity(users, items, found_us)
    watch_ms = world.draw_watch_ms(affinity, items, rng=rng)
    liked = rng.random(len(session)) < 0.1
    request_id = _join(sessions.ids().take(pa.array(session)), "-search")
    details = {
        "request_id": request_id,
        "event_id": request_id,
        "position": pa.nulls(len(session), pa.int16()),
        "surface": constant("search", len(session)),
        "propensity": pa.nulls(len(session), pa.float32()),
        "policy": pa.nulls(len(session), pa.string()),
        "is_impression": constant(False, len(session)),
    }
    clicked = np.ones(len(session), bool)
    outcomes = (clicked, watch_ms, liked)
    return searches, _events(world, sessions, session, items, found_us, outcomes, details)


def _events(
    world: World,
    sessions: Sessions,
    session: np.ndarray,
    items: np.ndarray,
    time_us: np.ndarray,
    outcomes: tuple[np.ndarray, np.ndarray, np.ndarray],
    details: dict[str, pa.Array],
) -> pa.Table:
    clicked, watch_ms, liked = outcomes
    users = sessions.user[session]
    columns = {
        "user_id": _join("u", _text(users)),
        "item_id": _join("i", _text(items)),
        "event_time": _times(time_us),
        "clicked": pa.array(clicked),
        "watch_ms": pa.array(watch_ms),
        "liked": pa.array(liked),
        "duration_ms": pa.array(world.item_duration_ms[items]),
        "session_id": sessions.ids().take(pa.array(session)),
        "device": _pick(_DEVICES, sessions.device[session]),
        "country": _pick(_COUNTRIES, world.user_country[users]),
        "language": _pick(_LANGUAGES, world.user_country[users]),
        "logged_in": pa.array(sessions.is_logged_in[session]),
    }
    return pa.table(columns | details)


def _items(world: World) -> pa.Table:
    numbers = _text(np.arange(world.num_items))
    topic = _join("topic", _text(world.item_topic))
    one_each = pa.array(np.arange(world.num_items + 1, dtype=np.int32))
    language = world.item_channel % len(_LANGUAGES)
    return pa.table(
        {
            "item_id": _join("i", numbers),
            "title": _join("Video ", numbers, " of ", topic),
            "channel_id": _join("c", _text(world.item_channel)),
            "topics": pa.ListArray.from_arrays(one_each, topic),
            "duration_ms": pa.array(world.item_duration_ms),
            "upload_time": _times(world.item_upload_us),
            "language": _pick(_LANGUAGES, language),
        }
    )


def _users(world: World) -> pa.Table:
    gender = _pick(_GENDERS, np.maximum(world.user_gender, 0))
    return pa.table(
        {
            "user_id": _join("u", _text(np.arange(world.num_users))),
            "country": _pick(_COUNTRIES, world.user_country),
            "language": _pick(_LANGUAGES, world.user_country),
            "gender": pc.if_else(pa.array(world.user_gender < 0), None, gender),
            "birth_year": pa.array(world.birth_year),
        }
    )


def _text(numbers: np.ndarray) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _join(*parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _times(time_us: np.ndarray) -> pa.Array:
    return pa.array(time_us.astype(np.int64)).cast(TIME)


def _pick(values: tuple[str, ...], numbers: np.ndarray) -> pa.Array:
    return pa.array(values, pa.string()).take(pa.array(numbers))
