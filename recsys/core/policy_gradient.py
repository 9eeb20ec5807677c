"""Top-K off-policy corrected REINFORCE (Chen et al. 2019): learn what would have paid best.

A softmax over what was watched learns to do as the logging policy did. Here an action a that the
log shows with probability beta(a | s) and that paid R counts as often as the learned policy pi
would take it, and, since K items are shown at once, no more once it is sure to be among them:

    omega  = min(pi(a | s) / beta(a | s), c)                        eq. 3, capped as in section 4.4
    lambda = d alpha / d pi = K (1 - pi(a | s))^(K - 1)             eq. 7
    grad   = sum over the log of  omega lambda R grad log pi(a | s)  eq. 6

Without the cap, its mean over the log is the gradient of sum_a alpha(a) R(a), with alpha =
1 - (1 - pi)^K, the chance that a is among K draws. Both factors are numbers here, not functions to
be differentiated.

References:
    Chen, Beutel, Covington, Jain, Belletti, Chi, Top-K off-policy correction for a REINFORCE
        recommender system, WSDM 2019.
    Williams, Simple statistical gradient-following algorithms for connectionist reinforcement
        learning, Machine Learning 1992.
    Ionides, Truncated importance sampling, 2008 (the cap).
"""

from keras import ops

from recsys.core.backends import Tensor


def off_policy_weight(log_policy: Tensor, log_behaviour: Tensor, *, cap: float) -> Tensor:
    """Return min(pi / beta, cap), without a gradient: float [...] twice -> [...].

    Args:
        log_policy: log pi of the logged actions.
        log_behaviour: log beta of them.
        cap: c, above 0: what a rare action may count at most.
    """
    ratio = ops.exp(ops.minimum(log_policy - log_behaviour, ops.log(float(cap))))
    return ops.stop_gradient(ratio)


def top_k_multiplier(log_policy: Tensor, *, top_k: int) -> Tensor:
    """Return K (1 - pi)^(K - 1), without a gradient: float [...] -> [...].

    K for what is hardly ever taken, 0 for what is sure to be: 1 throughout where K is 1.
    """
    policy = ops.minimum(ops.exp(log_policy), 1.0)
    return ops.stop_gradient(top_k * (1.0 - policy) ** (top_k - 1))


def policy_gradient_loss(
    log_policy: Tensor, log_behaviour: Tensor, rewards: Tensor, *, top_k: int, cap: float
) -> Tensor:
    """Return - omega lambda R log pi(a | s), one value an action of the log.

    Args:
        log_policy: float [...], log pi of the logged actions; what gradients go through.
        log_behaviour: float [...], log beta of them, no gradient.
        rewards: float [...], R, 0 and up.
        top_k: K, items shown at once.
        cap: c, see `off_policy_weight`.
    """
    weight = off_policy_weight(log_policy, log_behaviour, cap=cap)
    multiplier = top_k_multiplier(log_policy, top_k=top_k)
    return -weight * multiplier * rewards * log_policy
