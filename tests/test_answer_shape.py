"""Whatever the settings and the request: what may not come back does not, and pages are full."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.bundle import Bundle
from recsys.data.prepared import load_prepared
from recsys.data.user_states import user_states
from recsys.index.exact import ExactIndex
from recsys.recommender import Recommender
from recsys.requests import ArrangementChange, ItemFilter, Request
from recsys.settings import ArrangementSettings, BoostSettings, OrderSettings, SourceSettings
from recsys.state import UserState

NUM_CANDIDATES = 60
NUM_VECTORS = 137
SOURCES = ("co_visitation", "recent_popularity", "same_channel", "new_items")
POLICIES = {
    "greedy": OrderSettings(),
    "plackett_luce": OrderSettings(policy="plackett_luce", temperature=5.0),
    "thompson": OrderSettings(policy="thompson"),
}


@pytest.fixture(scope="module")
def world(tiny_run, tiny_bundle):
    """A bundle with all that any settings need, its items as dictionaries, and some users.

    Some items are not available, have no channel or no upload time; the untrained have no vector.
    """
    switches = [f"serving.sources.{name}=5" for name in SOURCES]
    bundle = Bundle.load(tiny_bundle("serving.exploration.policy=thompson", *switches))
    now = datetime.fromtimestamp(bundle.data_until / 1e6, UTC)
    items = bundle.catalogue.table.to_pylist()
    for row, item in enumerate(items):
        item["available_until"] = now if row % 17 == 3 else None
        item["available_from"] = now + timedelta(hours=1) if row % 19 == 4 else None
        item["channel_id"] = None if row % 11 == 5 else item["channel_id"]
        item["upload_time"] = None if row % 13 == 6 else item["upload_time"]
    moment = pa.timestamp("us", tz="UTC")
    table = pa.Table.from_pylist(items, schema=bundle.catalogue.table.schema)
    for name in ("available_until", "available_from"):
        column = pa.array([item[name] for item in items], moment)
        others = [other for other in table.column_names if other != name]
        table = table.select(others).append_column(name, column)
    rows, vectors = np.arange(len(items)), np.asarray(bundle.item_vectors)[:NUM_VECTORS]
    features = replace(
        bundle.item_features,
        channel=np.where(rows % 11 == 5, -1, bundle.item_features.channel),
        upload_time=np.where(rows % 13 == 6, -1, bundle.item_features.upload_time),
    )
    bundle = replace(
        bundle,
        catalogue=replace(bundle.catalogue, table=table),
        item_features=features,
        item_vectors=vectors,
        index=ExactIndex(vectors),
    )
    prepared = load_prepared(tiny_run / "prepared")
    states = [state.as_of(bundle.data_until) for state in user_states(prepared, prepared.shards[0])]
    by_length = sorted(states, key=lambda state: -len(state.events))
    return bundle, items, [*by_length[:3], by_length[-1], UserState("nobody")]


def subset(values, max_size):
    return st.frozensets(st.sampled_from(values), max_size=max_size)


ITEMS = [f"i{number}" for number in range(150)]
TOPICS = [f"topic{number}" for number in range(12)]
CHANNELS = [f"c{number}" for number in range(15)]

item_filters = st.just(ItemFilter()) | st.builds(
    ItemFilter,
    topics=subset(TOPICS[:6], 3),
    channel_ids=subset(CHANNELS[:8], 4),
    languages=subset(["en", "hi"], 1),
    max_duration_ms=st.none() | st.sampled_from([40_000, 90_000]),
    max_age_ms=st.none() | st.sampled_from([5 * 86_400_000, 20 * 86_400_000]),
    excluded_topics=subset([*TOPICS[3:], "no such topic"], 3),
    excluded_channel_ids=subset([*CHANNELS[4:], "no such channel"], 4),
)
changes = st.just(ArrangementChange()) | st.builds(
    ArrangementChange,
    diversity=st.none() | st.sampled_from([0.0, 0.5]),
    max_per_channel=st.none() | st.integers(0, 3),
)
asked = st.fixed_dictionaries(
    {
        "user": st.integers(0, 4),
        "num_items": st.integers(1, 70),
        "page_size": st.none() | st.integers(1, 25),
        "excluded_item_ids": subset(ITEMS, 100) | subset(ITEMS, 3),
        "allowed_item_ids": st.just(frozenset()) | subset([*ITEMS, "nobody knows it"], 40),
        "seen": subset(ITEMS, 50),
        "current": st.none() | st.sampled_from(ITEMS),
        "item_filter": item_filters,
        "arrangement": changes,
        "seen_removed": st.booleans(),
        "explained": st.booleans(),
    }
)
arrangements = st.just(ArrangementSettings()) | st.builds(
    ArrangementSettings,
    max_per_channel=st.none() | st.integers(1, 3),
    min_fresh=st.integers(0, 4),
    fresh_days=st.sampled_from([3.0, 12.0]),
    diversity=st.sampled_from([0.0, 0.4]),
    boosts=st.just(())
    | st.just((BoostSettings(topics=("topic1",), factor=3.0, added_seconds=4.0),)),
)
quotas = st.fixed_dictionaries({name: st.sampled_from([0, 1, 14]) for name in SOURCES})


def opened(bundle, policy, arrangement, sources):
    serving = bundle.settings.serving.model_copy(
        update={
            "exploration": POLICIES[policy],
            "arrangement": arrangement,
            "sources": SourceSettings(**sources),
        }
    )
    return Recommender(
        replace(bundle, settings=bundle.settings.model_copy(update={"serving": serving}))
    )


def to_request(bundle, states, values, number):
    values = dict(values)
    state = replace(states[values.pop("user")], seen=values.pop("seen"))
    current = values.pop("current")
    context = {"current_item_id": current} if current else {}
    return Request(state, now=bundle.data_until, context=context, request_id=f"r{number}", **values)


def is_eligible(item, request, watched):
    """The rules once more, in plain Python."""
    now = datetime.fromtimestamp(request.now / 1e6, UTC)
    wanted, topics = request.item_filter, set(item["topics"] or ())
    uploaded = item["upload_time"]
    young = uploaded is not None and timedelta(0) <= now - uploaded
    young = young and now - uploaded <= timedelta(milliseconds=wanted.max_age_ms or 0)
    return not (
        item["item_id"] in request.excluded_item_ids
        or item["item_id"] == request.context.get("current_item_id")
        or (request.seen_removed and item["item_id"] in watched)
        or (request.allowed_item_ids and item["item_id"] not in request.allowed_item_ids)
        or (item["available_until"] is not None and now >= item["available_until"])
        or (item["available_from"] is not None and now < item["available_from"])
        or (wanted.topics and not topics & wanted.topics)
        or topics & wanted.excluded_topics
        or (wanted.channel_ids and item["channel_id"] not in wanted.channel_ids)
        or item["channel_id"] in wanted.excluded_channel_ids
        or (wanted.languages and item["language"] not in wanted.languages)
        or (wanted.max_duration_ms is not None and item["duration_ms"] > wanted.max_duration_ms)
        or (wanted.max_age_ms is not None and not young)
    )


def watched_by(bundle, request):
    events = request.user.events
    known = Recommender(bundle).is_watch(events) & (events.outcome_moment < request.now)
    return {item.decode() for item in events.item_id[known]} | request.user.seen


def cap_of(arrangement, request):
    asked = request.arrangement.max_per_channel
    if asked is not None:
        return asked or None
    return None if request.item_filter.channel_ids else arrangement.max_per_channel


def check(answer, request, arrangement, bundle, items, policy):
    by_id = {item["item_id"]: item for item in items}
    watched = watched_by(bundle, request)
    eligible = {item["item_id"] for item in items if is_eligible(item, request, watched)}
    ids = [item.item_id for item in answer.items]
    assert answer.degraded_stages == ()
    assert len(set(ids)) == len(ids)
    assert set(ids) <= eligible
    cap, full = cap_of(arrangement, request), min(request.num_items, NUM_CANDIDATES, len(eligible))
    assert len(ids) == full or (cap is not None and len(ids) < full)
    size = request.page_size or 20
    for start in range(0, len(ids), size):
        channels = Counter(by_id[item]["channel_id"] for item in ids[start : start + size])
        del channels[None]
        assert cap is None or max(channels.values(), default=0) <= cap
    diversity = request.arrangement.diversity
    diversity = arrangement.diversity if diversity is None else diversity
    has_limits = bool(cap is not None or arrangement.min_fresh or diversity)
    is_known = policy == "plackett_luce" or (policy == "thompson" and not has_limits)
    for item in answer.items:
        assert (item.propensity is not None) == is_known
        assert item.propensity is None or 0 < item.propensity <= 1
        assert item.source == item.sources[0]
        assert (item.explanation is not None) == request.explained
    for name, counts in answer.source_counts.items():
        assert counts.items == sum(name in item.sources for item in answer.items)
        assert counts.items <= counts.candidates


def check_fresh(answer, request, arrangement, recommender):
    """Each page that is not capped has the fresh items that it needs, as far as some were left."""
    bundle = recommender.bundle
    age = bundle.data_until - bundle.item_features.upload_time
    is_young = (age >= 0) & (age <= arrangement.fresh_days * 86_400_000_000)
    is_young &= bundle.item_features.upload_time >= 0
    left = int(is_young[recommender.candidates([request])[0].rows].sum())
    rows = bundle.catalogue.rows([item.item_id for item in answer.items])
    size = request.page_size or 20
    for start in range(0, len(rows), size):
        page = rows[start : start + size]
        places = min(size, request.num_items - start)
        if len(page) == places:
            assert is_young[page].sum() >= min(arrangement.min_fresh, places, left)
        left -= int(is_young[page].sum())


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    policy=st.sampled_from(list(POLICIES)),
    arrangement=arrangements,
    sources=quotas,
    values=st.lists(asked, min_size=1, max_size=4),
)
def test_every_answer_is_what_was_asked_for_alone_and_in_a_batch(
    world, policy, arrangement, sources, values
):
    bundle, items, states = world
    recommender = opened(bundle, policy, arrangement, sources)
    requests = [to_request(bundle, states, each, number) for number, each in enumerate(values)]
    together = recommender.recommend(requests)
    for request, answer in zip(requests, together, strict=True):
        check(answer, request, arrangement, bundle, items, policy)
        if cap_of(arrangement, request) is None:
            check_fresh(answer, request, arrangement, recommender)
        alone = recommender.recommend([request])[0]
        assert [item.item_id for item in alone.items] == [item.item_id for item in answer.items]
        assert [item.sources for item in alone.items] == [item.sources for item in answer.items]
