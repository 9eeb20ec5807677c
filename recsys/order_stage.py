"""The last stage: which candidates stand where, by their scores, the site's rules and chance."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recsys.arrangement import Arrangement, Limits
from recsys.errors import RequestError
from recsys.ordering import Order, Ordering, greedy_order, greedy_propensities
from recsys.requests import Request
from recsys.retrieval import Candidates
from recsys.scoring import Scored
from recsys.stages import NO_TIME, Batch, Clock


class OrderStage:
    """Orders the candidates of requests.

    Args:
        ordering: Draws, where the bundle explores.
        arrangement: What pages obey.
    """

    def __init__(self, ordering: Ordering, arrangement: Arrangement) -> None:
        self._ordering, self._arrangement = ordering, arrangement
        self._clock = Clock()

    def order(
        self,
        batch: Batch,
        candidates: Sequence[Candidates],
        scored: Sequence[Scored | None],
        explored: np.ndarray,
    ) -> tuple[list[Scored | None], list[Order]]:
        """Order the candidates of every request; by the net's scores where none says more.

        Args:
            batch: Q requests.
            candidates: Of each.
            scored: Of each; None where the ranking net was skipped.
            explored: bool [Q], whose order is drawn.

        Returns:
            The scores after the boosts, and the orders.
        """
        boosted, orders = [], []
        for position, (found, score) in enumerate(zip(candidates, scored, strict=True)):
            is_drawn = bool(explored[position])
            try:
                final, order = self._arranged(batch, position, found, score, is_drawn=is_drawn)
            except Exception as error:  # a broken rule must cost the arrangement, never the answer
                plain = greedy_order(_own(found, score), batch.requests[position].num_items)
                final, order = score, replace(plain, failures={"arrangement": repr(error)})
            boosted.append(final)
            orders.append(order)
        return boosted, orders

    def propensities(
        self,
        batch: Batch,
        position: int,
        found: Candidates,
        score: Scored,
        page: np.ndarray,
        *,
        is_drawn: bool,
    ) -> np.ndarray:
        """Say how probable a given page is as an answer, place by place given those above.

        Args:
            batch: Q requests.
            position: Of the one that the page is of.
            found, score: Its candidates.
            page: int [K], catalogue rows.
            is_drawn: Whether the order is.

        Returns:
            float64 [K], 0 for what is no candidate.

        Raises:
            RequestError: Pages obey limits.
        """
        request = batch.requests[position]
        if self._arrangement.limits(request, found.rows) is not None:
            raise RequestError(
                "arrangement",
                "expected a bundle without caps, fresh items and diversity: under these it is not "
                "known how probable a page is",
            )
        score = score.boosted(self._arrangement.boost(request, found.rows))
        placed = _places(found.rows, page)
        if is_drawn:
            return self._ordering.propensities(batch.users, position, score, placed)
        return greedy_propensities(score, placed)

    def _arranged(
        self,
        batch: Batch,
        position: int,
        found: Candidates,
        score: Scored | None,
        *,
        is_drawn: bool,
    ) -> tuple[Scored | None, Order]:
        request, started = batch.requests[position], time.perf_counter()
        limits = self._arrangement.limits(request, found.rows)
        if score is not None:
            score = score.boosted(self._arrangement.boost(request, found.rows))
        if score is not None and is_drawn:
            return score, self._draw(batch, position, score, limits)
        order = greedy_order(_own(found, score), request.num_items, limits)
        batch.trace.add_seconds("order", time.perf_counter() - started)
        return score, order

    def _draw(self, batch: Batch, position: int, scored: Scored, limits: Limits | None) -> Order:
        request = batch.requests[position]
        if self._clock.is_late(batch.time_remaining):
            return self._undrawn(request, scored, limits, NO_TIME)
        started = time.perf_counter()
        try:
            order = self._ordering.draw(request, batch.users, position, scored, limits)
        except Exception as error:  # a broken process must cost exploration, never the answer
            return self._undrawn(request, scored, limits, repr(error))
        seconds = time.perf_counter() - started
        self._clock.note(seconds, 1)
        batch.trace.add_seconds("explore", seconds)
        return order

    def _undrawn(
        self, request: Request, scored: Scored, limits: Limits | None, reason: str
    ) -> Order:
        order = greedy_order(scored.score, request.num_items, limits)
        return replace(order, failures={"exploration": reason})


def _own(found: Candidates, scored: Scored | None) -> np.ndarray:
    """Return what candidates are ordered by: without a score, their places."""
    return -np.arange(len(found.rows)) if scored is None else scored.score


def _places(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where rows stand among the candidates, -1 for none of them: int64 [K]."""
    is_there = wanted[:, None] == rows
    return np.where(is_there.any(axis=1), is_there.argmax(axis=1), -1)
