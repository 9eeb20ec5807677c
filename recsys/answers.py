"""An answer put together from what the stages gave, and what happened on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from recsys.ordering import Order
from recsys.requests import Explanation, RankedItem, Recommendation, Request
from recsys.retrieval import Candidates
from recsys.scoring import Scored


@dataclass
class Trace:
    """What happened on the way to a batch of answers."""

    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def build_answer(
    request: Request,
    candidates: Candidates,
    scored: Scored | None,
    order: Order | None,
    trace: Trace,
    item_ids: Callable[[np.ndarray], list[str]],
) -> Recommendation:
    """Return the answer to one request.

    Args:
        request: The request.
        candidates: Its candidates.
        scored: Their scores, None where they have none.
        order: Which of them in which order, None for that of the candidates.
        trace: Of the batch.
        item_ids: Gives the ids of catalogue rows.
    """
    order = order or Order(np.arange(len(candidates.rows))[: request.num_items])
    failures = trace.failures | ({"exploration": order.failure} if order.failure else {})
    chosen = order.chosen
    number = len(chosen)
    # Lists of plain floats: an answer may have hundreds of items, an array gives each slowly.
    seconds = [None] * number if scored is None else scored.seconds[chosen].tolist()
    propensity = [None] * number if order.propensity is None else order.propensity.tolist()
    explanations = (
        [_explanation(candidates, scored, order, place) for place in range(number)]
        if request.explained
        else [None] * number
    )
    items = (
        RankedItem(item_id, expected, candidates.source, explanation, probability)
        for item_id, expected, explanation, probability in zip(
            item_ids(candidates.rows[chosen]), seconds, explanations, propensity, strict=True
        )
    )
    return Recommendation(
        items=tuple(items),
        degraded_stages=tuple(sorted(failures)),
        failures=failures,
        dropped=candidates.dropped,
        stage_seconds=dict(trace.seconds),
    )


def _explanation(
    candidates: Candidates, scored: Scored | None, order: Order, place: int
) -> Explanation:
    position = order.chosen[place]
    return Explanation(
        candidate_score=float(candidates.scores[position]),
        candidate_rank=int(position),
        features=scored.features[position] if scored is not None else {},
        exploration={name: float(values[place]) for name, values in order.drawn_from.items()},
    )
