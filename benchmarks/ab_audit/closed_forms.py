"""Estimators against their expectation, worked out over every row that a log can hold.

A problem of few contexts and items is enumerated: each row that the logging policy may write, with
its probability. The expectation of an estimate is then a sum, without chance, and must be the value
of the target policy, or what the estimator's equation says where it has a bias.
"""

from itertools import permutations

import numpy as np

from recsys.off_policy import estimators, slates
from recsys.off_policy.estimators import Terms
from recsys.off_policy.weights import importance_weights, marginal_weights

NUM_PROBLEMS = 200
CONTEXTS, ITEMS, PLACES = 4, 6, 3


def max_error(seed: int) -> float:
    """Return the largest difference between any estimator's expectation and its closed form."""
    rng = np.random.default_rng(seed)
    errors = [0.0]
    for _ in range(NUM_PROBLEMS):
        errors += _row_errors(rng) + _category_errors(rng) + _page_errors(rng)
    return max(errors)


def _row_errors(rng: np.random.Generator) -> list[float]:
    logging, target = rng.dirichlet(np.ones(ITEMS), (2, CONTEXTS))
    reward, model = rng.gamma(2.0, size=(2, CONTEXTS, ITEMS))
    limit = float(rng.uniform(0.5, 5))
    probability = (logging / CONTEXTS).ravel()
    weights = importance_weights(target, logging)
    expected = np.repeat((target * model).sum(axis=1), ITEMS)
    of_model = (weights.ravel(), reward.ravel(), model.ravel(), expected)
    value = (target * reward).sum() / CONTEXTS
    modelled = (target * model).sum() / CONTEXTS

    def corrected(used: np.ndarray) -> float:
        return modelled + (logging * used * (reward - model)).sum() / CONTEXTS

    shrunk = limit * weights / (weights**2 + limit)
    pairs = [
        (estimators.ips(*of_model[:2]), value),
        (estimators.snips(*of_model[:2]), value),
        (
            estimators.clipped_ips(*of_model[:2], limit=limit),
            (logging * np.minimum(weights, limit) * reward).sum() / CONTEXTS,
        ),
        (estimators.direct_method(expected), modelled),
        (estimators.doubly_robust(*of_model), value),
        (
            estimators.switch_doubly_robust(*of_model, limit=limit),
            corrected(weights * (weights <= limit)),
        ),
        (estimators.shrunk_doubly_robust(*of_model, shrinkage=limit), corrected(shrunk)),
    ]
    return [abs(_expectation(terms, probability) - exact) for terms, exact in pairs]


def _category_errors(rng: np.random.Generator) -> list[float]:
    """Rewards follow the category of an item: marginalised weights make no error."""
    categories = rng.integers(3, size=ITEMS)
    logging, target = rng.dirichlet(np.ones(ITEMS), (2, CONTEXTS))
    reward = rng.gamma(2.0, size=(CONTEXTS, 3))[:, categories]
    context, item = np.indices((CONTEXTS, ITEMS)).reshape(2, -1)
    weights = marginal_weights(target[context], logging[context], categories, item)
    terms = estimators.ips(weights, reward[context, item])
    value = (target * reward).sum() / CONTEXTS
    return [abs(_expectation(terms, (logging / CONTEXTS).ravel()) - value)]


def _page_errors(rng: np.random.Generator) -> list[float]:
    """Pages without replacement, whose rewards depend on all items down to their place."""
    pages = np.array(list(permutations(range(ITEMS), PLACES)))
    logging, target = (_given_above(pages, rng.dirichlet(np.ones(ITEMS))) for _ in range(2))
    weights = importance_weights(np.minimum(target, 1), np.minimum(logging, 1))
    worth = rng.gamma(2.0, size=(PLACES, ITEMS))
    own = worth[np.arange(PLACES), pages]
    cascading = np.cumsum(own, axis=1) * own
    probability, target_probability = logging.prod(axis=1), target.prod(axis=1)
    value = float(target_probability @ cascading.sum(axis=1))
    predicted = np.cumsum(own, axis=1)
    expected = _mean_given_above(pages, predicted, target)
    pairs = [
        (slates.reward_interaction_ips(weights, cascading), value),
        (slates.cascade_doubly_robust(weights, cascading, predicted, expected), value),
        (
            slates.item_position_ips(
                _at_places(pages, target_probability) / _at_places(pages, probability), own
            ),
            float(target_probability @ own.sum(axis=1)),
        ),
    ]
    return [abs(_expectation(terms, probability) - exact) for terms, exact in pairs]


def _expectation(terms: Terms, probability: np.ndarray) -> float:
    return float(probability @ terms.above / (probability @ terms.below))


def _given_above(pages: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return P(item at each place given those above), drawn in proportion: float64 [S, L]."""
    own = first[pages]
    return own / (1 - np.cumsum(own, axis=1) + own)


def _at_places(pages: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return P(item at its place, whatever stands elsewhere): float64 [S, L]."""
    columns = [
        np.bincount(pages[:, place], probability, ITEMS)[pages[:, place]] for place in range(PLACES)
    ]
    return np.stack(columns, axis=1)


def _mean_given_above(pages: np.ndarray, predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the mean prediction at each place over the target's draws there: float64 [S, L]."""
    out = np.empty(predicted.shape)
    for place in range(PLACES):
        above = pages[:, :place] @ ITEMS ** np.arange(place)
        down_to = pages[:, : place + 1] @ ITEMS ** np.arange(place + 1)
        _, start = np.unique(down_to, return_index=True)
        # One row for each item that may come next: the others repeat it.
        distinct, owner = np.unique(above, return_inverse=True)
        once = predicted[start, place] * target[start, place]
        out[:, place] = np.bincount(owner[start], once, len(distinct))[owner]
    return out
