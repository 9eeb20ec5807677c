"""The final order of an answer: by the score, or drawn so that what is less sure is shown too.

Which policy draws is a setting of the bundle (`[serving.exploration]`). A draw depends on the
bundle's seed, the user and the request alone: asked again, or in a batch, a request gets the same.
"""

from dataclasses import dataclass, field

import numpy as np

from recsys.bundle import Bundle
from recsys.core.random import stream
from recsys.errors import BundleError
from recsys.exploration.features import process_inputs
from recsys.exploration.plackett_luce import plackett_luce_order, plackett_luce_propensities
from recsys.exploration.predictor import Prediction
from recsys.exploration.thompson import thompson_propensities, thompson_scores
from recsys.ranking.spec import FeatureSpec
from recsys.requests import Request
from recsys.scoring import Scored
from recsys.user_views import UserViews

SMALLEST_DEVIATION = 1e-3
"""Of the log of a watch time: a calibration may say 0, of which nothing could be drawn."""


@dataclass(frozen=True)
class Order:
    """The items of one answer, K of them.

    Args:
        chosen: int64 [K], positions among the candidates, from the first place on.
        propensity: float64 [K], probability of each place's candidate given those before it; None
            where nothing was drawn.
        drawn_from: Name -> float64 [K], what the policy drew from.
        failure: Why it is the greedy order instead of a drawn one; empty if it is not.
    """

    chosen: np.ndarray
    propensity: np.ndarray | None = None
    drawn_from: dict[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""


def greedy_order(scored: Scored, num_items: int, *, failure: str = "") -> Order:
    """Return the candidates of the highest scores; equal ones stay in candidate order."""
    return Order(np.argsort(-scored.score, kind="stable")[:num_items], failure=failure)


def greedy_propensities(scored: Scored, placed: np.ndarray) -> np.ndarray:
    """Say which places of a page the greedy order agrees with, given those above: float64 [K].

    Args:
        scored: C candidates.
        placed: int64 [K], positions among the candidates, -1 for an item that is none of them.
    """
    best_first = np.argsort(-scored.score, kind="stable")
    is_left = np.ones(len(best_first), bool)
    propensity = np.zeros(len(placed))
    rank = np.argsort(best_first)
    for place, position in enumerate(placed.tolist()):
        if position >= 0:
            propensity[place] = is_left[: rank[position]].sum() == 0
            is_left[rank[position]] = False
    return propensity


class Ordering:
    """Draws orders by the policy of a bundle.

    Args:
        bundle: A bundle with a ranking net.

    Raises:
        BundleError: The neural process was trained on other inputs than the ranking net.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._settings = bundle.settings.serving.exploration
        self._seed = bundle.settings.seed
        self._length = bundle.settings.exploration.context_length
        self._items, self._process = bundle.item_features, bundle.process
        if bundle.process and bundle.ranker and bundle.process.spec != bundle.ranker.spec:
            raise BundleError(
                f"bundle {bundle.bundle_id}: expected a neural process of the ranking net's "
                f"inputs, found one of others; train both anew on one log"
            )

    @property
    def needs_inputs(self) -> bool:
        """Whether a draw needs the inputs of the ranking net."""
        return self._settings.policy == "thompson"

    def explored(self, users: UserViews) -> np.ndarray:
        """Say for which users the order is drawn: bool [Q]."""
        everybody = np.arange(len(users.moment))
        most = self._settings.max_known_watches
        if self._settings.policy == "greedy" or most is None:
            return np.full(len(everybody), self._settings.policy != "greedy")
        return users.known_watches.counts(everybody, users.moment) <= most

    def draw(self, request: Request, users: UserViews, position: int, scored: Scored) -> Order:
        """Draw the order of one request's candidates.

        Args:
            request: The request.
            users: Of its batch.
            position: Of the request in the batch.
            scored: Its candidates, with the inputs if they are needed.

        Raises:
            FloatingPointError: The neural process gave a watch time that is not finite.
        """
        if len(scored.score) == 0:
            return greedy_order(scored, request.num_items)
        own = request.request_id or request.now
        rng = stream(self._seed, "order", request.user.user_id, own)
        if self._settings.temperature is not None:
            return _plackett_luce(scored, self._settings.temperature, request.num_items, rng)
        return _thompson(self._predict(users, position, scored), request.num_items, rng)

    def propensities(
        self, users: UserViews, position: int, scored: Scored, placed: np.ndarray
    ) -> np.ndarray:
        """Return how probable a given page is, place by place: float64 [K].

        Args:
            users: Of the batch.
            position: Of the request in the batch, one of those that are explored.
            scored: Its candidates, with the inputs if they are needed.
            placed: int64 [K], positions among the candidates, -1 for an item that is none of them:
                its probability is 0, and those below see nothing of it.
        """
        propensity = np.zeros(len(placed))
        is_known = placed >= 0
        known = placed[is_known]
        if len(known) == 0:
            return propensity
        if self._settings.temperature is not None:
            others = np.setdiff1d(np.arange(len(scored.score)), known)
            order = np.concatenate([known, others])
            found = plackett_luce_propensities(scored.score, self._settings.temperature, order)
            propensity[is_known] = found[: len(known)]
            return propensity
        prediction = self._predict(users, position, scored)
        deviation = np.maximum(prediction.deviation[0], SMALLEST_DEVIATION)
        propensity[is_known] = thompson_propensities(prediction.mean[0], deviation, known)
        return propensity

    def _predict(self, users: UserViews, position: int, scored: Scored) -> Prediction:
        if self._process is None:
            raise BundleError("expected a bundle with a neural process, found none; train it")
        return self._process.predict(self._inputs(users, position, scored, self._process.spec))

    def _inputs(
        self, users: UserViews, position: int, scored: Scored, spec: FeatureSpec
    ) -> dict[str, np.ndarray]:
        """Return what the process is fed of one request."""
        known, own = users.known_watches, np.array([position])
        numbers = known.newest(own, users.moment[own], self._length)
        return process_inputs(scored.inputs, known.watches.at(numbers), self._items, spec)


def _plackett_luce(
    scored: Scored, temperature: float, num_items: int, rng: np.random.Generator
) -> Order:
    order = plackett_luce_order(scored.score, temperature, rng=rng)
    propensity = plackett_luce_propensities(scored.score, temperature, order)
    chosen = order[:num_items]
    drawn_from = {
        "score": scored.score[chosen].astype(np.float64),
        "temperature": np.full(len(chosen), temperature),
    }
    return Order(chosen, propensity[:num_items], drawn_from)


def _thompson(prediction: Prediction, num_items: int, rng: np.random.Generator) -> Order:
    mean = prediction.mean[0]
    deviation = np.maximum(prediction.deviation[0], SMALLEST_DEVIATION)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise FloatingPointError("the neural process gave a watch time that is not finite")
    drawn = thompson_scores(mean, deviation, rng=rng)
    chosen = np.argsort(-drawn, kind="stable")[:num_items]
    drawn_from = {
        "mean_log_seconds": mean[chosen],
        "deviation_log_seconds": deviation[chosen],
        "drawn_log_seconds": drawn[chosen],
    }
    return Order(chosen, thompson_propensities(mean, deviation, chosen), drawn_from)
