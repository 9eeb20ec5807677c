"""The candidate stage of a batch: the net's candidates, those of other sources, all merged.

    user vectors -> index -> eligible candidates --+
                 sources within their quotas ------+-> merged, scored by the net -> candidates

The net is asked for all candidates, and gives way to as many as the other sources bring that it
did not find. A source that breaks costs only itself; a net that breaks is replaced by what is
popular.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from recsys.bundle import Bundle
from recsys.eligibility import Eligibility, Restrictions
from recsys.recent_watches import RecentWatches
from recsys.requests import Request
from recsys.retrieval import Candidates, Retrieval
from recsys.sources import Finds, open_sources
from recsys.stages import Batch, Trace
from recsys.user_views import UserViews

CATALOGUE = "catalogue"
"""Name of the source of what fills an answer that would else be short."""

Gains = tuple[np.ndarray, np.ndarray]


class CandidateStage:
    """Finds the candidates of requests.

    Args:
        bundle: A loaded bundle.
        eligibility: What may be returned.
        retrieval: The net's candidates.
    """

    def __init__(self, bundle: Bundle, eligibility: Eligibility, retrieval: Retrieval) -> None:
        self._bundle, self._eligibility, self._retrieval = bundle, eligibility, retrieval
        settings = bundle.settings.serving
        self._num_candidates, self._quotas = settings.num_candidates, settings.sources.quotas()
        self._recent = self.new_recent_watches()
        self._sources = open_sources(bundle, eligibility, self._recent)

    def count_watches(self, rows: np.ndarray, moments: np.ndarray, *, sign: int) -> None:
        """Take watches, by catalogue row and moment, for the sources that follow them."""
        if self._recent is not None:
            self._recent.add(rows, moments, sign=sign)

    def new_recent_watches(self) -> RecentWatches | None:
        """Return the bundle's own weights of recent watches; None where no source follows them."""
        weights, settings = self._bundle.recent_watches, self._bundle.settings.serving.sources
        if weights is None:
            return None
        return RecentWatches(weights, self._bundle.data_until, settings.half_life_hours)

    def take_over(self, recent: RecentWatches | None) -> None:
        """Follow from now on what `new_recent_watches` gave, with what was counted since."""
        if self._recent is not None and recent is not None:
            self._recent.take_over(recent)

    def find(self, batch: Batch) -> list[Candidates]:
        """Return the candidates of each request, in the order of the net's scores."""
        requests, users, trace = batch.requests, batch.users, batch.trace
        limits = self._limits(batch)
        started = time.perf_counter()
        try:
            vectors, gains, found = self._by_net(users, limits)
        except Exception as error:  # a broken index must cost quality, never the answer
            trace.failures["index"] = repr(error)
            vectors, gains = None, []
            found = [self._retrieval.popular(each, self._num_candidates) for each in limits]
        brought = self._ask_sources(users, limits, trace)
        for position, (request, limit) in enumerate(zip(requests, limits, strict=True)):
            own = {name: finds[position] for name, finds in brought.items()}
            if own and limit.allowed is None:
                of_user = None if vectors is None else (vectors[position], gains[position])
                found[position] = self._merged(found[position], own, of_user)
            found[position] = self._filled(found[position], request, limit)
        trace.seconds["retrieve"] = time.perf_counter() - started
        return found

    def find_without_net(self, batch: Batch) -> list[Candidates]:
        """Return what is popular, for each request: no net, no index, no other source is asked."""
        return [
            self._filled(self._retrieval.popular(limit, self._num_candidates), request, limit)
            for request, limit in zip(batch.requests, self._limits(batch), strict=True)
        ]

    def _limits(self, batch: Batch) -> list[Restrictions]:
        return [
            self.restrictions(request, batch.users, position)
            for position, request in enumerate(batch.requests)
        ]

    def restrictions(self, request: Request, users: UserViews, position: int) -> Restrictions:
        """Return what a request rules out; `position` is its place in the batch."""
        catalogue = self._bundle.catalogue
        watched = np.zeros(0, np.int32)
        if request.seen_removed:
            older = catalogue.rows(sorted(request.user.seen))
            watched = np.union1d(users.watched_rows(position), older[older >= 0])
        current = request.context.get("current_item_id")
        allowed = None
        if request.allowed_item_ids:
            allowed = np.unique(catalogue.rows(sorted(request.allowed_item_ids)))
            allowed = allowed[allowed >= 0]
        return Restrictions(
            watched=watched,
            excluded=np.unique(catalogue.rows(sorted(request.excluded_item_ids))),
            current=int(catalogue.rows([str(current)])[0]) if current else -1,
            item_filter=request.item_filter,
            now=request.now,
            allowed=allowed,
        )

    def _by_net(
        self, users: UserViews, limits: Sequence[Restrictions]
    ) -> tuple[np.ndarray, list[Gains], list[Candidates]]:
        vectors = self._bundle.user_tower.vectors(users.tower_inputs)
        if not np.isfinite(vectors).all():
            raise FloatingPointError("the user tower gave a vector that is not finite")
        found = self._retrieval.by_vector(vectors, limits, self._num_candidates, users.successions)
        gains = self._retrieval.gains(vectors, users.successions) if self._sources else []
        return vectors, gains, found

    def _ask_sources(
        self, users: UserViews, limits: Sequence[Restrictions], trace: Trace
    ) -> dict[str, list[Finds]]:
        brought = {}
        for name, source in self._sources.items():
            try:
                brought[name] = source.find(users, limits, self._quotas[name])
            except Exception as error:  # a broken source costs only itself
                trace.failures[name] = repr(error)
        return brought

    def _merged(
        self,
        net: Candidates,
        brought: Mapping[str, Finds],
        of_user: tuple[np.ndarray, Gains] | None,
    ) -> Candidates:
        """Merge what the sources brought with the net's candidates, each once.

        Args:
            net: As many as there may be.
            brought: By source.
            of_user: What the net scores by; None where it is broken.
        """
        wanted = np.unique(np.concatenate([finds.rows for finds in brought.values()]))
        is_wanted = np.isin(net.rows, wanted)
        others = self._num_candidates - len(wanted)
        kept = np.flatnonzero(is_wanted | (np.cumsum(~is_wanted) <= others))
        new = np.setdiff1d(wanted, net.rows)
        scores = np.full(len(new), np.nan, np.float32)
        if of_user is not None:
            scores = self._retrieval.scores_of(new, *of_user)
        rows = np.concatenate([net.rows[kept], new])
        scores = np.concatenate([net.scores[kept], scores])
        order = np.argsort(-scores, kind="stable")  # what has no score comes last
        added = np.full(len(new), np.nan, np.float32)
        found_by = {
            name: np.concatenate([own[kept], added])[order] for name, own in net.found_by.items()
        }
        found_by |= {name: _own_scores(finds, rows[order]) for name, finds in brought.items()}
        return Candidates(rows[order], scores[order], found_by, net.dropped)

    def _filled(self, found: Candidates, request: Request, limit: Restrictions) -> Candidates:
        """Fill an answer that would be short with what else may be returned, most watched first.

        After the exact scan that is what has no vector; after a broken net, all else.
        """
        missing = min(request.num_items, self._num_candidates) - len(found.rows)
        if missing <= 0:
            return found
        every = np.arange(len(self._bundle.catalogue)) if limit.allowed is None else limit.allowed
        left = np.setdiff1d(every, found.rows)
        rows = left[self._eligibility.reasons(left, limit) == 0][:missing].astype(np.int32)
        if len(rows) == 0:
            return found
        nothing = np.full(len(rows), np.nan, np.float32)
        found_by = {name: np.concatenate([own, nothing]) for name, own in found.found_by.items()}
        before = np.full(len(found.rows), np.nan, np.float32)
        found_by[CATALOGUE] = np.concatenate([before, np.zeros(len(rows), np.float32)])
        rows = np.concatenate([found.rows, rows])
        return Candidates(rows, np.concatenate([found.scores, nothing]), found_by, found.dropped)


def _own_scores(finds: Finds, rows: np.ndarray) -> np.ndarray:
    """Return the source's own scores of candidates, NaN for those that it did not find."""
    scores = np.full(len(rows), np.nan, np.float32)
    _, of_rows, of_finds = np.intersect1d(rows, finds.rows, return_indices=True)
    scores[of_rows] = finds.scores[of_finds]
    return scores
