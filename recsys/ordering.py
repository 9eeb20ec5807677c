"""The final order of an answer: by the score, or drawn so that what is less sure is shown too.

Which policy draws is a setting of the bundle (`[serving.exploration]`). A draw depends on the
bundle's seed, the user and the request alone: asked again, or in a batch, a request gets the same.

Where the places obey limits (`recsys.arrangement`), Plackett-Luce draws each place among what is
allowed there, with its propensity; Thompson draws are put into an order that obeys them, whose
propensities are not known and are left out.
"""

from dataclasses import dataclass, field

import numpy as np

from recsys.arrangement import Limits, arrange, best
from recsys.boosts import Boost
from recsys.bundle import Bundle
from recsys.core.random import stream
from recsys.errors import BundleError
from recsys.exploration.features import process_inputs
from recsys.exploration.plackett_luce import (
    PlackettLuceDraws,
    plackett_luce_order,
    plackett_luce_propensities,
)
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
            where nothing was drawn, or it is not known.
        drawn_from: Name -> float64 [K], what the policy drew from.
        failures: Stage -> why something simpler came in its place: `exploration`, the greedy order
            instead of a drawn one; `arrangement`, one that obeys no limits.
    """

    chosen: np.ndarray
    propensity: np.ndarray | None = None
    drawn_from: dict[str, np.ndarray] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def greedy_order(score: np.ndarray, num_items: int, limits: Limits | None = None) -> Order:
    """Return the candidates of the highest scores; equal ones stay in candidate order."""
    if limits is not None:
        return Order(arrange(score, limits, num_items, best))
    return Order(np.argsort(-score, kind="stable")[:num_items])


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

    def draw(
        self,
        request: Request,
        users: UserViews,
        position: int,
        scored: Scored,
        limits: Limits | None = None,
    ) -> Order:
        """Draw the order of one request's candidates.

        Args:
            request: The request.
            users: Of its batch.
            position: Of the request in the batch.
            scored: Its candidates, with the inputs if they are needed.
            limits: What the places obey.

        Raises:
            FloatingPointError: The neural process gave a watch time that is not finite.
        """
        if len(scored.score) == 0:
            return greedy_order(scored.score, request.num_items)
        own = request.request_id or request.now
        rng = stream(self._seed, "order", request.user.user_id, own)
        temperature = self._settings.temperature
        if temperature is None:
            prediction = self._predict(users, position, scored)
            return _thompson(prediction, scored.boost, limits, request.num_items, rng)
        if limits is not None:
            return _arranged_plackett_luce(scored, temperature, limits, request.num_items, rng)
        return _plackett_luce(scored, temperature, request.num_items, rng)

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
        mean, deviation = _drawn_from(self._predict(users, position, scored), scored.boost)
        propensity[is_known] = thompson_propensities(mean, deviation, known)
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


def _arranged_plackett_luce(
    scored: Scored, temperature: float, limits: Limits, num_items: int, rng: np.random.Generator
) -> Order:
    draws = PlackettLuceDraws(temperature, rng)
    chosen = arrange(scored.score, limits, num_items, draws)
    drawn_from = {
        "score": np.array(draws.score),
        "temperature": np.full(len(chosen), temperature),
    }
    return Order(chosen, np.array(draws.propensity), drawn_from)


def _thompson(
    prediction: Prediction,
    boost: Boost | None,
    limits: Limits | None,
    num_items: int,
    rng: np.random.Generator,
) -> Order:
    mean, deviation = _drawn_from(prediction, boost)
    drawn = thompson_scores(mean, deviation, rng=rng)
    chosen = greedy_order(drawn, num_items, limits).chosen
    drawn_from = {
        "mean_log_seconds": mean[chosen],
        "deviation_log_seconds": deviation[chosen],
        "drawn_log_seconds": drawn[chosen],
    }
    propensity = thompson_propensities(mean, deviation, chosen) if limits is None else None
    return Order(chosen, propensity, drawn_from)


def _drawn_from(prediction: Prediction, boost: Boost | None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of the log of each candidate's watch time: float64 [C] twice."""
    mean = prediction.mean[0]
    deviation = np.maximum(prediction.deviation[0], SMALLEST_DEVIATION)
    if boost is not None:  # Of the median watch time; so the draws stay Gaussian.
        mean = np.log1p(np.maximum(boost.of(np.expm1(mean)), 0.0))
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise FloatingPointError("the neural process gave a watch time that is not finite")
    return mean, deviation
