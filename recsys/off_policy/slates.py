"""Estimators for pages of several items: what users do at one place may depend on the others.

Letters: S pages, L places. Which estimator is right depends on how users read a page, each
weaker assumption costing variance:

    item-position        r_l depends on the item at l only
        V = mean of sum_l w_l r_l,   w_l of the place alone, P(a_l at place l | x)
    reward-interaction   r_l depends on the items at 1 to l: pages are read from the top
        V = mean of sum_l w_1 ... w_l r_l,   w_l of P(a_l | x, a_1 ... a_(l-1))
    cascade-DR           the same, with a model of the rewards
        V = mean of sum_l  w_1 ... w_(l-1) v_l + w_1 ... w_l (r_l - q_l)

The rows of `Terms` are pages. A page of fewer places is padded with weight 1 and 0 elsewhere.

References:
    Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay, Wen, Offline evaluation of ranking policies
        with click models, KDD 2018 (item-position).
    McInerney, Brost, Chandar, Mehrotra, Carterette, Counterfactual evaluation of slate
        recommendations with sequential reward interactions, KDD 2020.
    Kiyohara, Saito, Matsuhiro, Narita, Shimizu, Yamamoto, Doubly robust off-policy evaluation for
        ranking policies under the cascade behavior model, WSDM 2022, eq. 10.
"""

import numpy as np

from recsys.off_policy.estimators import Terms


def item_position_ips(weights: np.ndarray, rewards: np.ndarray) -> Terms:
    """Weigh the reward of each place by its own weight.

    Args:
        weights: float [S, L], ratios of the probabilities of the item at the place, whatever
            stands above it.
        rewards: float [S, L].
    """
    _check_pages(weights, rewards)
    return Terms.mean((weights * rewards).sum(axis=1))


def reward_interaction_ips(weights: np.ndarray, rewards: np.ndarray) -> Terms:
    """Weigh the reward of each place by the weights of all places down to it.

    Args:
        weights: float [S, L], ratios of the probabilities of the item given those above it.
        rewards: float [S, L].
    """
    _check_pages(weights, rewards)
    return Terms.mean((np.cumprod(weights, axis=1) * rewards).sum(axis=1))


def cascade_doubly_robust(
    weights: np.ndarray, rewards: np.ndarray, predicted: np.ndarray, expected: np.ndarray
) -> Terms:
    """Correct a model of the rewards place by place.

    Args:
        weights: float [S, L], ratios of the probabilities of the item given those above it.
        rewards: float [S, L].
        predicted: float [S, L] q_l, what the model expects from the logged item at l, given those
            above it: the rewards from l to the end of the page for the least variance.
        expected: float [S, L] v_l, the same for an item that the target draws at l, given the
            logged ones above.
    """
    for values in (rewards, predicted, expected):
        _check_pages(weights, values)
    down_to = np.cumprod(weights, axis=1)
    above = np.concatenate([np.ones((len(weights), 1)), down_to[:, :-1]], axis=1)
    return Terms.mean((above * expected + down_to * (rewards - predicted)).sum(axis=1))


def _check_pages(weights: np.ndarray, values: np.ndarray) -> None:
    if weights.ndim != 2 or weights.shape != values.shape:
        raise ValueError(
            f"expected weights and values [S, L] of the same pages, got {list(weights.shape)} and "
            f"{list(values.shape)}"
        )
