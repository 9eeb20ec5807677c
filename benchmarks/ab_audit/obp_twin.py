"""The estimators beside those of the Open Bandit Pipeline, where it is installed.

It asks for old versions of much else, so it is no dependency: a skipped part of the audit.
"""

from typing import Any

import numpy as np

from recsys.off_policy import estimators, slates

ROWS, ITEMS, PAGES, PLACES = 5_000, 10, 2_000, 3


def audit(seed: int) -> dict[str, Any]:
    """Return the largest difference of any estimate, or nothing without obp."""
    try:
        from obp import ope
    except ImportError as error:
        print(f"skipped: estimators are compared with obp, which is not installed ({error})")
        return {}
    rng = np.random.default_rng(seed)
    return {"obp_max_difference": float(max(_of_rows(ope, rng) + _of_pages(ope, rng)))}


def _of_rows(ope: Any, rng: np.random.Generator) -> list[float]:
    logging, target = rng.dirichlet(np.ones(ITEMS), (2, ROWS))
    row, items = np.arange(ROWS), rng.integers(ITEMS, size=ROWS)
    rewards, model = rng.gamma(1.0, size=ROWS), rng.gamma(1.0, size=(ROWS, ITEMS))
    theirs = {
        "reward": rewards,
        "action": items,
        "position": np.zeros(ROWS, int),
        "pscore": logging[row, items],
        "action_dist": target[:, :, None],
        "estimated_rewards_by_reg_model": model[:, :, None],
    }
    weights = target[row, items] / logging[row, items]
    ours = (weights, rewards, model[row, items], (target * model).sum(axis=1))
    pairs = [
        (ope.InverseProbabilityWeighting(), estimators.ips(weights, rewards)),
        (ope.SelfNormalizedInverseProbabilityWeighting(), estimators.snips(weights, rewards)),
        (ope.DirectMethod(), estimators.direct_method(ours[3])),
        (ope.DoublyRobust(), estimators.doubly_robust(*ours)),
        (ope.SwitchDoublyRobust(tau=3.0), estimators.switch_doubly_robust(*ours, limit=3.0)),
        (
            ope.DoublyRobustWithShrinkage(lambda_=3.0),
            estimators.shrunk_doubly_robust(*ours, shrinkage=3.0),
        ),
    ]
    return [
        abs(theirs_of.estimate_policy_value(**theirs) - terms.value) for theirs_of, terms in pairs
    ]


def _of_pages(ope: Any, rng: np.random.Generator) -> list[float]:
    logging, target = rng.uniform(0.05, 1, (2, PAGES, PLACES))
    rewards = rng.gamma(1.0, size=(PAGES, PLACES))
    place = np.tile(np.arange(PLACES), PAGES)
    common = {
        "slate_id": np.repeat(np.arange(PAGES), PLACES),
        "reward": rewards.ravel(),
        "position": place,
    }
    item_position = ope.SlateIndependentIPS(len_list=PLACES).estimate_policy_value(
        **common,
        pscore_item_position=logging.ravel(),
        evaluation_policy_pscore_item_position=target.ravel(),
    )
    # Its pages carry the probability of all items down to the place.
    interaction = ope.SlateRewardInteractionIPS(len_list=PLACES).estimate_policy_value(
        **common,
        pscore_cascade=np.cumprod(logging, axis=1).ravel(),
        evaluation_policy_pscore_cascade=np.cumprod(target, axis=1).ravel(),
    )
    weights = target / logging
    return [
        abs(item_position - slates.item_position_ips(weights, rewards).value),
        abs(interaction - slates.reward_interaction_ips(weights, rewards).value),
    ]
