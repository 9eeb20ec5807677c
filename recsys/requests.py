"""The questions that a recommender answers, and its answers, in external ids."""

from dataclasses import dataclass, field
from typing import NamedTuple

from recsys.state import UserState


@dataclass(frozen=True)
class ItemFilter:
    """Restricts items by their attributes; empty members do not restrict.

    Args:
        topics: An item needs at least one of these.
        channel_ids, languages: An item needs one of these.
        max_duration_ms: Longer items are dropped; those of unknown duration stay.
        max_age_ms: Since upload. Older items are dropped, and so are those of unknown age: who
            asks for what is new does not want what may be old.
        excluded_topics, excluded_channel_ids: An item with one of these is dropped. Values that no
            item has say nothing: a user's list may outlive a channel.
    """

    topics: frozenset[str] = frozenset()
    channel_ids: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()
    max_duration_ms: int | None = None
    max_age_ms: int | None = None
    excluded_topics: frozenset[str] = frozenset()
    excluded_channel_ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ArrangementChange:
    """What one request changes of the bundle's `[serving.arrangement]`; None changes nothing.

    Args:
        diversity: From 0 to below 1.
        max_per_channel: At least 1; 0 for no cap.
    """

    diversity: float | None = None
    max_per_channel: int | None = None


@dataclass(frozen=True)
class Request:
    """One question: which items next for this user, in this context.

    Args:
        user: Their state; what it holds at or after `now` is ignored.
        now: Microseconds since the epoch; a sequence number where `has_time` is false, which is
            for evaluation on logs that know only order.
        context: Values of this request that override the user's attributes: surface, device,
            country, language, logged_in, gender, age, current_item_id.
        num_items: How many items to return.
        page_size: Of the pages that these items are cut into, each arranged by itself; None takes
            the bundle's `default_page_size`.
        excluded_item_ids: Never returned.
        allowed_item_ids: If any, the answer comes from these alone.
        item_filter: See `ItemFilter`.
        arrangement: See `ArrangementChange`.
        seen_removed: Whether watched items are removed; a surface that allows a rewatch says no.
        explained: Whether each item carries its `Explanation`.
        request_id: What chance follows, with the user's id: the same one gives the same draws.
            Empty takes `now`.
    """

    user: UserState
    now: int
    has_time: bool = True
    context: dict[str, str | float] = field(default_factory=dict)
    num_items: int = 20
    page_size: int | None = None
    excluded_item_ids: frozenset[str] = frozenset()
    allowed_item_ids: frozenset[str] = frozenset()
    item_filter: ItemFilter = ItemFilter()
    arrangement: ArrangementChange = ArrangementChange()
    seen_removed: bool = True
    explained: bool = False
    request_id: str = ""


@dataclass(frozen=True)
class Explanation:
    """Why an item is where it is.

    Args:
        candidate_score: Of the candidate net, whichever source found the item; None for an item
            without a vector.
        candidate_rank: From 0, among the candidates.
        features: What the ranking net was fed, by name.
        exploration: What the order was drawn from, by name; empty where nothing was drawn.
        source_scores: Source that found it -> its own score there.
        boost: `factor` and `added_seconds` of all rules together; empty without rules.
    """

    candidate_score: float | None
    candidate_rank: int
    features: dict[str, float | str]
    exploration: dict[str, float] = field(default_factory=dict)
    source_scores: dict[str, float] = field(default_factory=dict)
    boost: dict[str, float] = field(default_factory=dict)


class RankedItem(NamedTuple):
    """One answer: a tuple, since hundreds are made for each request.

    Args:
        item_id: External id.
        expected_watch_seconds: None without a ranking net, or when it was skipped.
        source: The first of `sources`.
        explanation: If asked for.
        propensity: Probability of this item at this position given those before it, under the
            policy that drew the order; None where nothing was drawn (greedy), or it is not known.
        sources: Every candidate source that found it, the net first.
    """

    item_id: str
    expected_watch_seconds: float | None
    source: str
    explanation: Explanation | None = None
    propensity: float | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceCounts:
    """What one candidate source brought to an answer; an item of several sources counts for each.

    Args:
        candidates: Of the candidates.
        items: Of the items of the answer.
    """

    candidates: int
    items: int


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request.

    Args:
        items: Best first.
        degraded_stages: Stages that failed or were skipped (`index`, a candidate source by its
            name, `ranker`, `exploration`, `arrangement`), and were replaced by something simpler.
        failures: Degraded stage -> what went wrong, for the log of whoever runs this.
        dropped: Reason -> number of the net's candidates removed (`watched`, `excluded`,
            `filtered`, `unavailable`, `current`, `not_allowed`).
        stage_seconds: Stage -> wall-clock seconds.
        source_counts: Source -> what it brought; every source that was asked.
        num_candidates: From which the items were chosen.
    """

    items: tuple[RankedItem, ...]
    degraded_stages: tuple[str, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    source_counts: dict[str, SourceCounts] = field(default_factory=dict)
    num_candidates: int = 0
