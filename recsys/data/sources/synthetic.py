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
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.log import Log
from recsys.data.schema import TIME
from recsys.data.sources.behaviour import (
    DEVICES,
    REQUEST_GAP_US,
    REQUESTS_PER_SESSION,
    SURFACES,
    TOPIC_WORDS,
    Finds,
    Pages,
    Sessions,
    draw_finds,
    draw_sessions,
    shown_us,
)
from recsys.data.sources.columns import check_options, constant
from recsys.data.sources.world import DAY_US, PAGE_SIZE, LoggingPolicy, World, make_world
from recsys.errors import ConfigError
from recsys.settings import DataSettings

COUNTRIES = ("BR", "DE", "FR", "IN", "JP", "US")
LANGUAGES = ("pt", "de", "fr", "hi", "ja", "en")
_GENDERS = ("female", "male")

_BLOCK_EVENTS = 200_000
_SESSIONS, _IMPRESSIONS, _SEARCHES = 1, 2, 3
"""Random streams of a block: one a kind, so that each can be generated alone."""


def read(settings: DataSettings, seed: int) -> Log:
    """Draw the world of a seed; its events and searches are generated as they are read."""
    world = world_of(settings, seed)
    policy = LoggingPolicy(world)
    num_days = (world.end_us - world.start_us) // DAY_US
    sessions_per_user = mean_sessions(settings, world)
    events_per_user = _events_per_user(settings, world)
    block_users = max(1, int(_BLOCK_EVENTS / events_per_user))

    def blocks() -> Iterator[tuple[int, Sessions]]:
        for block, first in enumerate(range(0, world.num_users, block_users)):
            users = np.arange(first, min(first + block_users, world.num_users))
            rng = _stream(seed, block, _SESSIONS)
            yield (
                block,
                draw_sessions(
                    world,
                    users,
                    sessions_per_user,
                    first_us=world.start_us,
                    num_days=num_days,
                    rng=rng,
                ),
            )

    def finds(block: int, sessions: Sessions) -> Finds:
        rng = _stream(seed, block, _SEARCHES)
        return draw_finds(world, policy, sessions, earliest_us=world.start_us, rng=rng)

    def events() -> Iterator[pa.Table]:
        for block, sessions in blocks():
            found = found_table(world, sessions, finds(block, sessions))
            pages = _draw_pages(world, policy, sessions, _stream(seed, block, _IMPRESSIONS))
            shown = shown_table(world, sessions, pages, policy="topic_mixture")
            yield pa.concat_tables([shown, found])

    def searches() -> Iterator[pa.Table]:
        for block, sessions in blocks():
            yield search_table(sessions, finds(block, sessions))

    truth = {field.name: getattr(world, field.name) for field in fields(world)}
    return Log(
        events,
        searches,
        items=item_table(world),
        users=user_table(world),
        truth={**truth, "world": world},
    )


def world_of(settings: DataSettings, seed: int) -> World:
    """Draw the world of a seed, as large as the options say.

    Raises:
        ConfigError: An option is unknown or no size.
    """
    check_options(settings, ("users", "items", "days", "events"))
    return make_world(
        num_users=_count(settings, "users", 2_000, at_least=1),
        num_items=_count(settings, "items", 1_000, at_least=40),
        num_days=_count(settings, "days", 14, at_least=1),
        num_countries=len(COUNTRIES),
        seed=seed,
    )


def mean_sessions(settings: DataSettings, world: World) -> float:
    """Return how often a user comes in the days of the log, on average."""
    return _events_per_user(settings, world) / (REQUESTS_PER_SESSION * PAGE_SIZE)


def _events_per_user(settings: DataSettings, world: World) -> float:
    num_events = _count(settings, "events", 60 * world.num_users, at_least=1)
    return num_events / world.num_users


def _count(settings: DataSettings, key: str, default: int, *, at_least: int) -> int:
    value = settings.options.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ConfigError(
            f"data.options.{key}: expected a whole number, at least {at_least}, got {value!r}"
        )
    return value


def _stream(seed: int, block: int, kind: int) -> np.random.Generator:
    return np.random.default_rng([seed, kind, block])


def _draw_pages(
    world: World, policy: LoggingPolicy, sessions: Sessions, rng: np.random.Generator
) -> Pages:
    session, request = sessions.requests()
    request_us = sessions.start_us[session] + request * REQUEST_GAP_US
    users = sessions.user[session]
    # Uploads end with the log; a page asked for later is drawn from what was there at its end.
    policy_us = np.minimum(request_us, world.end_us)
    items, propensity = policy.draw_pages(
        world.topic_probabilities(users, policy_us), policy_us, rng=rng
    )
    surface = rng.integers(len(SURFACES), size=len(session))
    outcomes = world.draw_outcomes(
        np.repeat(users, PAGE_SIZE),
        items.ravel(),
        np.tile(np.arange(PAGE_SIZE), len(users)),
        shown_us(request_us, PAGE_SIZE).ravel(),
        rng=rng,
    )
    clicked, watch_ms, liked = (values.reshape(items.shape) for values in outcomes)
    return Pages(session, request, surface, request_us, items, propensity, clicked, watch_ms, liked)


def shown_table(world: World, sessions: Sessions, pages: Pages, *, policy: str) -> pa.Table:
    """Return what was shown as events of the contract.

    Args:
        world: Whose items.
        sessions: Of the pages.
        pages: Places without an item give no event.
        policy: Name of what chose the items.
    """
    page, position = np.nonzero(pages.items >= 0)
    request_id = _join(
        _session_ids(sessions).take(pa.array(pages.session)), "-", _text(pages.request)
    )
    row_request_id = request_id.take(pa.array(page))
    propensity = pages.propensity[page, position].astype(np.float32)
    details = {
        "request_id": row_request_id,
        "event_id": _join(row_request_id, "-", _text(position)),
        "position": pa.array(position.astype(np.int16)),
        "surface": _pick(SURFACES, pages.surface[page]),
        "propensity": pa.array(propensity, mask=np.isnan(propensity)),
        "policy": constant(policy, len(page)),
        "is_impression": constant(True, len(page)),
    }
    outcomes = tuple(
        values[page, position] for values in (pages.clicked, pages.watch_ms, pages.liked)
    )
    time_us = pages.shown_us[page, position]
    items = pages.items[page, position]
    return _events(world, sessions, pages.session[page], items, time_us, outcomes, details)


def search_table(sessions: Sessions, finds: Finds) -> pa.Table:
    """Return searches as the contract has them."""
    users = sessions.user[finds.session]
    return pa.table(
        {
            "user_id": _join("u", _text(users)),
            "event_time": _times(finds.search_us),
            "query": pa.array(queries(finds), pa.string()),
        }
    )


def queries(finds: Finds) -> list[str]:
    """Return the texts of searches."""
    words = zip(finds.topic.tolist(), finds.word.tolist(), strict=True)
    return [f"topic{topic} {TOPIC_WORDS[word]}" for topic, word in words]


def found_table(world: World, sessions: Sessions, finds: Finds) -> pa.Table:
    """Return the watches that searches led to as events of the contract."""
    number = len(finds.session)
    request_id = _join(_session_ids(sessions).take(pa.array(finds.session)), "-search")
    details = {
        "request_id": request_id,
        "event_id": request_id,
        "position": pa.nulls(number, pa.int16()),
        "surface": constant("search", number),
        "propensity": pa.nulls(number, pa.float32()),
        "policy": pa.nulls(number, pa.string()),
        "is_impression": constant(False, number),
    }
    outcomes = (np.ones(number, bool), finds.watch_ms, finds.liked)
    return _events(world, sessions, finds.session, finds.item, finds.found_us, outcomes, details)


def _events(
    world: World,
    sessions: Sessions,
    session: np.ndarray,
    items: np.ndarray,
    time_us: np.ndarray,
    outcomes: tuple[np.ndarray, ...],
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
        "session_id": _session_ids(sessions).take(pa.array(session)),
        "device": _pick(DEVICES, sessions.device[session]),
        "country": _pick(COUNTRIES, world.user_country[users]),
        "language": _pick(LANGUAGES, world.user_country[users]),
        "logged_in": pa.array(sessions.is_logged_in[session]),
    }
    return pa.table(columns | details)


def item_table(world: World) -> pa.Table:
    """Return the items table."""
    numbers = _text(np.arange(world.num_items))
    topic = _join("topic", _text(world.item_topic))
    one_each = pa.array(np.arange(world.num_items + 1, dtype=np.int32))
    language = world.item_channel % len(LANGUAGES)
    return pa.table(
        {
            "item_id": _join("i", numbers),
            "title": _join("Video ", numbers, " of ", topic),
            "channel_id": _join("c", _text(world.item_channel)),
            "topics": pa.ListArray.from_arrays(one_each, topic),
            "duration_ms": pa.array(world.item_duration_ms),
            "upload_time": _times(world.item_upload_us),
            "available_from": _times(world.item_upload_us),
            "language": _pick(LANGUAGES, language),
        }
    )


def user_table(world: World) -> pa.Table:
    """Return the users table."""
    gender = _pick(_GENDERS, np.maximum(world.user_gender, 0))
    return pa.table(
        {
            "user_id": _join("u", _text(np.arange(world.num_users))),
            "country": _pick(COUNTRIES, world.user_country),
            "language": _pick(LANGUAGES, world.user_country),
            "gender": pc.if_else(pa.array(world.user_gender < 0), None, gender),
            "birth_year": pa.array(world.birth_year),
        }
    )


def _session_ids(sessions: Sessions) -> pa.Array:
    """Return the session ids: 's7-0' is the first of user 7."""
    return _join("s", _text(sessions.user), "-", _text(sessions.number))


def _text(numbers: np.ndarray) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _join(*parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _times(time_us: np.ndarray) -> pa.Array:
    return pa.array(time_us.astype(np.int64)).cast(TIME)


def _pick(values: tuple[str, ...], numbers: np.ndarray) -> pa.Array:
    return pa.array(values, pa.string()).take(pa.array(numbers))
