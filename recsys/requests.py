"""The questions that a recommender answers, and its answers, in external ids."""

from dataclasses import dataclass, field

from recsys.state import UserState


@dataclass(frozen=True)
class ItemFilter:
    """Restricts items by their attributes; empty members do not restrict.

    Args:
        topics: An item needs at least one of these.
        channel_ids, languages: An item needs one of these.
        max_duration_ms: Longer items are dropped; those of unknown duration stay.
    """

    topics: frozenset[str] = frozenset()
    channel_ids: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()
    max_duration_ms: int | None = None


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
        excluded_item_ids: Never returned.
        item_filter: See `ItemFilter`.
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
    excluded_item_ids: frozenset[str] = frozenset()
    item_filter: ItemFilter = ItemFilter()
    seen_removed: bool = True
    explained: bool = False
    request_id: str = ""


@dataclass(frozen=True)
class Explanation:
    """Why an item is where it is.

    Args:
        candidate_score: Of the candidate stage.
        candidate_rank: From 0, among the candidates.
        features: What the ranking net was fed, by name.
        exploration: What the order was drawn from, by name; empty where nothing was drawn.
    """

    candidate_score: float
    candidate_rank: int
    features: dict[str, float | str]
    exploration: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RankedItem:
    """One answer.

    Args:
        item_id: External id.
        expected_watch_seconds: None without a ranking net, or when it was skipped.
        source: Of the candidates.
        explanation: If asked for.
        propensity: Probability of this item at this position given those before it, under the
            policy that drew the order; None where nothing was drawn (greedy).
    """

    item_id: str
    expected_watch_seconds: float | None
    source: str
    explanation: Explanation | None = None
    propensity: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request.

    Args:
        items: Best first.
        degraded_stages: Stages that failed or were skipped (`index`, `ranker`, `exploration`),
            and were replaced by something simpler.
        failures: Degraded stage -> what went wrong, for the log of whoever runs this.
        dropped: Reason -> number of candidates removed (`watched`, `excluded`, `filtered`,
            `unavailable`, `current`).
        stage_seconds: Stage -> wall-clock seconds.
        num_candidates: From which the items were chosen.
    """

    items: tuple[RankedItem, ...]
    degraded_stages: tuple[str, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    num_candidates: int = 0
