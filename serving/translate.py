"""Between messages and the library's types, with every check of a request on the way in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from recsys.errors import RequestError
from recsys.requests import (
    ArrangementChange,
    Explanation,
    ItemFilter,
    RankedItem,
    Recommendation,
    Request,
)
from recsys.settings import ServingSettings
from recsys.state import EVENT_DTYPES, UNKNOWN, UserEvents, UserState
from serving import checks
from serving.merging import StoredSearch
from serving.v1 import recommender_pb2

MAX_HISTORY = 1000
MAX_ITEM_IDS = 10_000
MAX_FILTER_VALUES = 100
MAX_EXCLUDED_VALUES = 1000
MAX_PER_CHANNEL = 1000
MAX_ITEM_AGE_SECONDS = 36_500 * 86_400
MAX_QUERY_BYTES = 1024
MAX_AGE_YEARS = 150
MICROSECONDS_PER_MILLISECOND = 1000
CONTEXT_TEXTS = ("surface", "device", "country", "language", "gender", "current_item_id")


@dataclass(frozen=True)
class History:
    """Events of a message: items by moment, searches by moment.

    Args:
        events, searches: The events.
        request_ids: Event id -> the request whose answer showed the item, where that is told.
    """

    events: UserEvents
    searches: tuple[StoredSearch, ...]
    request_ids: dict[bytes, str] = field(default_factory=dict)


def to_request(
    message: Any, state: UserState, settings: ServingSettings, *, now: int, blocked: frozenset[str]
) -> Request:
    """Return the question of a RecommendItemsRequest for one page.

    Args:
        message: The request, its user id already checked.
        state: What is stored of the user; the message's history replaces it.
        settings: Of the bundle that answers.
        now: Microseconds since the epoch.
        blocked: Items that the operator took out.

    Raises:
        RequestError: A field has no meaning; with its path.
    """
    checks.check_known_fields(message, "request")
    if message.history:
        history = to_history(message.history, "history", now)
        searches = tuple((search.query, search.moment) for search in history.searches)
        state = replace(state, events=history.events, searches=searches, seen=frozenset())
    surface = message.context.surface
    size = page_size(message, settings)
    return Request(
        user=state,
        now=now,
        context=to_context(message.context),
        num_items=size,
        page_size=size,
        excluded_item_ids=_ids(message.excluded_item_ids, "excluded_item_ids") | blocked,
        allowed_item_ids=_ids(message.allowed_item_ids, "allowed_item_ids"),
        item_filter=to_filter(message.filter),
        arrangement=to_arrangement(message.arrangement),
        seen_removed=surface not in settings.rewatch_surfaces,
        explained=message.explained,
    )


def page_size(message: Any, settings: ServingSettings) -> int:
    """Return how many items a page holds."""
    return checks.check_size(
        message.page_size, "page_size", settings.default_page_size, settings.max_page_size
    )


def to_context(context: Any) -> dict[str, str | float]:
    """Return the values of a Context that are set."""
    checks.check_known_fields(context, "context")
    values: dict[str, str | float] = {}
    for name in CONTEXT_TEXTS:
        value = checks.check_optional_id(getattr(context, name), f"context.{name}")
        if value:
            values[name] = value
    if context.HasField("logged_in"):
        values["logged_in"] = "true" if context.logged_in else "false"
    if context.HasField("age"):
        if not 0 <= context.age <= MAX_AGE_YEARS:
            raise RequestError(
                "context.age", f"expected 0 to {MAX_AGE_YEARS} years, got {context.age}"
            )
        values["age"] = float(context.age)
    return values


def to_filter(message: Any) -> ItemFilter:
    """Return the restrictions of a Filter; whether the catalogue has its values is not known."""
    checks.check_known_fields(message, "filter")
    for name in ("topics", "channel_ids", "languages"):
        checks.check_count(getattr(message, name), f"filter.{name}", MAX_FILTER_VALUES)
    for name in ("excluded_topics", "excluded_channel_ids"):
        checks.check_count(getattr(message, name), f"filter.{name}", MAX_EXCLUDED_VALUES)
    max_duration_ms = max_age_ms = None
    if message.HasField("max_duration"):
        max_duration_ms = checks.to_milliseconds(message.max_duration, "filter.max_duration")
    if message.HasField("max_age"):
        max_age_ms = checks.to_milliseconds(message.max_age, "filter.max_age", MAX_ITEM_AGE_SECONDS)
    return ItemFilter(
        topics=frozenset(message.topics),
        channel_ids=frozenset(message.channel_ids),
        languages=frozenset(message.languages),
        max_duration_ms=max_duration_ms,
        max_age_ms=max_age_ms,
        excluded_topics=frozenset(message.excluded_topics),
        excluded_channel_ids=frozenset(message.excluded_channel_ids),
    )


def to_arrangement(message: Any) -> ArrangementChange:
    """Return what an Arrangement changes."""
    checks.check_known_fields(message, "arrangement")
    diversity = max_per_channel = None
    if message.HasField("diversity"):
        diversity = message.diversity
        if not 0 <= diversity < 1:
            raise RequestError(
                "arrangement.diversity", f"expected 0 or more, below 1, got {diversity}"
            )
    if message.HasField("max_per_channel"):
        max_per_channel = message.max_per_channel
        if not 0 <= max_per_channel <= MAX_PER_CHANNEL:
            raise RequestError(
                "arrangement.max_per_channel",
                f"expected 0 to {MAX_PER_CHANNEL}, got {max_per_channel}",
            )
    return ArrangementChange(diversity, max_per_channel)


def to_history(
    messages: Sequence[Any], field: str, now: int, *, is_recorded: bool = False
) -> History:
    """Return the events of a message.

    Args:
        messages: Events.
        field: Path of the events in the request.
        now: Microseconds since the epoch.
        is_recorded: Events to be stored: each needs an id, and took place now unless it says
            when. Otherwise an event without a time knows only its order.
    """
    checks.check_count(messages, field, MAX_HISTORY, minimum=1)
    rows, searches = [], []
    request_ids: dict[bytes, str] = {}
    for position, message in enumerate(messages):
        path = f"{field}[{position}]"
        checks.check_known_fields(message, path)
        event_id = _event_id(message, path, is_recorded)
        moment, has_time = position, False
        if message.HasField("event_time"):
            moment = checks.to_microseconds(message.event_time, f"{path}.event_time", now)
            has_time = True
        elif is_recorded:
            moment, has_time = now, True
        if message.WhichOneof("kind") == "search":
            query = checks.check_text(message.search.query, f"{path}.search.query", MAX_QUERY_BYTES)
            searches.append(StoredSearch(query, moment, event_id))
        else:
            rows.append(_to_row(message, path, now, event_id, moment, has_time))
            request_id = _request_id(message, path)
            if request_id:
                request_ids.setdefault(event_id.encode(), request_id)
    searches.sort(key=lambda search: search.moment)
    return History(_to_events(rows), tuple(searches), request_ids)


def to_response(recommendation: Recommendation, bundle_id: str) -> Any:
    """Return a RecommendItemsResponse with all items of a ranking."""
    return recommender_pb2.RecommendItemsResponse(
        bundle_id=bundle_id,
        degraded_stages=recommendation.degraded_stages,
        items=[_to_item(item, position) for position, item in enumerate(recommendation.items)],
        source_counts=[
            recommender_pb2.SourceCount(
                source=source, candidate_count=counts.candidates, item_count=counts.items
            )
            for source, counts in recommendation.source_counts.items()
        ],
    )


def without_items(page: Any, blocked: frozenset[str]) -> Any:
    """Return a page without the items blocked since it was ranked; positions stay."""
    kept = [item for item in page.items if item.item_id not in blocked]
    if len(kept) < len(page.items):
        del page.items[:]
        page.items.extend(kept)
    return page


def to_similar(items: Iterable[tuple[str, float]], bundle_id: str) -> Any:
    """Return a FindSimilarItemsResponse."""
    return recommender_pb2.FindSimilarItemsResponse(
        bundle_id=bundle_id,
        items=[
            recommender_pb2.SimilarItem(item_id=item_id, score=score) for item_id, score in items
        ],
    )


def to_bundle(bundle_id: str, data_until: int, roles: Mapping[str, tuple[str, float]]) -> Any:
    """Return a Bundle message; `roles` of the loaded ones, each with its share."""
    until = Timestamp()
    until.FromMicroseconds(data_until)
    role, share = roles.get(bundle_id, ("", 0.0))
    return recommender_pb2.Bundle(
        bundle_id=bundle_id,
        data_until_time=until,
        active=role == "active",
        role=role,
        share=share,
    )


def _ids(item_ids: Sequence[str], field: str) -> frozenset[str]:
    checks.check_count(item_ids, field, MAX_ITEM_IDS)
    return frozenset(
        checks.check_id(item_id, f"{field}[{position}]")
        for position, item_id in enumerate(item_ids)
    )


def _event_id(message: Any, path: str, is_recorded: bool) -> str:
    check = checks.check_id if is_recorded else checks.check_optional_id
    return check(message.event_id, f"{path}.event_id")


def _request_id(message: Any, path: str) -> str:
    if message.WhichOneof("kind") != "impression":
        return ""
    return checks.check_request_id(message.impression.request_id, f"{path}.impression.request_id")


def _to_row(message: Any, path: str, now: int, event_id: str, moment: int, has_time: bool) -> tuple:
    """Return the columns of one item event, in the order of `EVENT_DTYPES`."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise RequestError(path, "expected an impression, a watch or a search, got none of them")
    item, path = getattr(message, kind), f"{path}.{kind}"
    checks.check_known_fields(item, path)
    item_id = checks.check_id(item.item_id, f"{path}.item_id")
    outcome, path = item.outcome, f"{path}.outcome"
    watch_ms = UNKNOWN
    if outcome.HasField("watch_duration"):
        watch_ms = checks.to_milliseconds(outcome.watch_duration, f"{path}.watch_duration")
    outcome_moment = moment
    if has_time:
        outcome_moment = _outcome_moment(outcome, path, now, moment, watch_ms)
    return (
        item_id.encode(),
        event_id.encode(),
        moment,
        outcome_moment,
        has_time,
        watch_ms,
        int(outcome.clicked) if outcome.HasField("clicked") else UNKNOWN,
        int(outcome.watch_label) if outcome.HasField("watch_label") else UNKNOWN,
        kind == "impression",
    )


def _outcome_moment(outcome: Any, path: str, now: int, moment: int, watch_ms: int) -> int:
    known = moment + max(watch_ms, 0) * MICROSECONDS_PER_MILLISECOND
    if outcome.HasField("outcome_time"):
        known = checks.to_microseconds(outcome.outcome_time, f"{path}.outcome_time", now)
    # What the caller tells is known now, even if the watch began without a time of its own.
    return max(min(known, now), moment)


def _to_events(rows: Sequence[tuple]) -> UserEvents:
    if not rows:
        return UserEvents.empty()
    columns = zip(EVENT_DTYPES.items(), zip(*rows, strict=True), strict=True)
    events = UserEvents(**{name: np.array(values, dtype) for (name, dtype), values in columns})
    return events.take(np.lexsort((events.moment, events.has_time)))


def _to_item(item: RankedItem, position: int) -> dict[str, Any]:
    """Return the fields of a RecommendedItem: of dicts a whole answer is made in half the time."""
    fields = {
        "item_id": item.item_id,
        "position": position,
        "source": item.source,
        "sources": item.sources,
    }
    if item.expected_watch_seconds is not None:
        seconds, nanos = _to_duration(item.expected_watch_seconds)
        fields["expected_watch_duration"] = {"seconds": seconds, "nanos": nanos}
    if item.propensity is not None:
        fields["propensity"] = item.propensity
    if item.explanation is not None:
        fields["explanation"] = _to_explanation(item.explanation)
    return fields


def _to_duration(seconds: float) -> tuple[int, int]:
    """Return whole seconds and nanoseconds."""
    return divmod(round(seconds * 1e9), 1_000_000_000)


def _to_explanation(explanation: Explanation) -> Any:
    message = recommender_pb2.Explanation(
        candidate_score=explanation.candidate_score,
        candidate_rank=explanation.candidate_rank,
        exploration=explanation.exploration,
        source_scores=explanation.source_scores,
        boost=explanation.boost,
    )
    for name, value in explanation.features.items():
        if isinstance(value, str):
            message.features[name].text = value
        else:
            message.features[name].number = value
    return message
