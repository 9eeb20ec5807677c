"""Ranked candidates as an answer in external ids, with what is told of them."""

from collections.abc import Callable

import numpy as np

from recsys.ordering import Order
from recsys.requests import Explanation, RankedItem, Recommendation, Request, SourceCounts
from recsys.retrieval import Candidates
from recsys.scoring import Scored
from recsys.stages import Trace


def to_recommendation(
    request: Request,
    candidates: Candidates,
    scored: Scored | None,
    order: Order,
    trace: Trace,
    item_ids: Callable[[np.ndarray], list[str]],
) -> Recommendation:
    """Return the answer to one request.

    Args:
        request: The request.
        candidates: C of them.
        scored: Of each; None where the ranking net was skipped.
        order: Which of them, from the first place on.
        trace: What happened on the way.
        item_ids: External ids of catalogue rows.
    """
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
    items = tuple(
        RankedItem(item_id, expected, sources[0], explanation, probability, sources)
        for item_id, expected, sources, explanation, probability in zip(
            item_ids(candidates.rows[chosen]),
            seconds,
            _sources(candidates, chosen),
            explanations,
            propensity,
            strict=True,
        )
    )
    failures = trace.failures | order.failures
    return Recommendation(
        items=items,
        degraded_stages=tuple(sorted(failures)),
        failures=failures,
        dropped=candidates.dropped,
        stage_seconds=dict(trace.seconds),
        source_counts=_source_counts(candidates, order.chosen),
        num_candidates=len(candidates.rows),
    )


def _sources(candidates: Candidates, chosen: np.ndarray) -> list[tuple[str, ...]]:
    """Return the sources of each chosen candidate."""
    names = tuple(candidates.found_by)
    if len(names) == 1:
        return [names] * len(chosen)
    found = np.stack([~np.isnan(own[chosen]) for own in candidates.found_by.values()], axis=1)
    return [
        tuple(name for name, is_found in zip(names, row, strict=True) if is_found)
        for row in found.tolist()
    ]


def _source_counts(candidates: Candidates, chosen: np.ndarray) -> dict[str, SourceCounts]:
    return {
        name: SourceCounts(
            candidates=int(np.count_nonzero(~np.isnan(own))),
            items=int(np.count_nonzero(~np.isnan(own[chosen]))),
        )
        for name, own in candidates.found_by.items()
    }


def _explanation(
    candidates: Candidates, scored: Scored | None, order: Order, place: int
) -> Explanation:
    position = order.chosen[place]
    boost = None if scored is None else scored.boost
    return Explanation(
        candidate_score=_known(candidates.scores[position]),
        candidate_rank=int(position),
        features=scored.features[position] if scored is not None else {},
        exploration={name: float(values[place]) for name, values in order.drawn_from.items()},
        source_scores={
            name: float(own[position])
            for name, own in candidates.found_by.items()
            if not np.isnan(own[position])
        },
        boost={}
        if boost is None
        else {name: float(values[position]) for name, values in vars(boost).items()},
    )


def _known(score: float) -> float | None:
    return None if np.isnan(score) else float(score)
