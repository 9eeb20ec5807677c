"""Losses of both stages but the softmax, one value a row; `weighted_mean` makes a scalar of them.

References:
    Covington, Adams & Sargin 2016, Deep Neural Networks for YouTube Recommendations.
    Koenker & Bassett 1978, Regression Quantiles (the pinball loss).
    Nix & Weigend 1994, Estimating the Mean and Variance of the Target Probability Distribution.
    Sun et al. 2024, CREAD: A Classification-Restoration Framework with Error Adaptive
    Discretization for Watch Time Prediction in Video Recommender Systems.
    Mikolov et al. 2013, Distributed Representations of Words and Phrases and their
    Compositionality.
    Kingma & Welling 2014, Auto-Encoding Variational Bayes.
    Liang et al. 2018, Variational Autoencoders for Collaborative Filtering.
"""

import math

from keras import ops

from recsys.core.backends import Tensor

HIDDEN_LOGIT = -1e9
"""Of what must have no probability; finite, since infinities turn into NaN in gradients."""


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return sum(weight * loss) / sum(weight): [...] twice -> []; 0 where all weights are 0."""
    return ops.sum(losses * weights) / ops.maximum(ops.sum(weights), 1e-12)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Logistic loss, softplus(z) - y z: float [...] twice -> [...]; labels in 0..1."""
    return ops.softplus(logits) - labels * logits


def expected_watch_time(logits: Tensor, watch_time: Tensor) -> Tensor:
    """Weighted logistic loss whose odds are the expected watch time: (1 + T) softplus(z) - T z.

    Its mean is least where exp(z) / (1 + exp(z)) = E[T] / (1 + E[T]), so exp(z) = E[T | x].

    Args:
        logits: float [...], z.
        watch_time: float [...], T >= 0, in the unit that exp(z) shall have.

    Returns:
        float [...].
    """
    return (1.0 + watch_time) * ops.softplus(logits) - watch_time * logits


def weighted_logistic(logits: Tensor, is_clicked: Tensor, watch_time: Tensor) -> Tensor:
    """Weighted logistic loss of Covington et al. 2016, section 4.2, for reference.

    Clicked impressions weigh T, others 1. Its odds are E[T] / (1 - P), P the click rate: above
    the expected watch time by 1 / (1 - P), unlike `expected_watch_time`.

    Args:
        logits: float [...].
        is_clicked: float [...], 0 or 1.
        watch_time: float [...].

    Returns:
        float [...].
    """
    unclicked = (1.0 - is_clicked) * ops.softplus(logits)
    return unclicked + is_clicked * watch_time * ops.softplus(-logits)


def pinball(predictions: Tensor, targets: Tensor, quantile: float) -> Tensor:
    """Quantile loss: max(q (y - f), (q - 1) (y - f)): float [...] twice -> [...].

    Least in the mean where f is the conditional quantile; q = 1/2 is half the absolute error.
    """
    error = targets - predictions
    return ops.maximum(quantile * error, (quantile - 1.0) * error)


def absolute_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return |y - f|, least in the mean at the conditional median: float [...] twice -> [...]."""
    return ops.abs(targets - predictions)


def ordinal(logits: Tensor, thresholds: Tensor, watch_time: Tensor) -> Tensor:
    """Mean over m of the logistic loss of 1[T > t_m]: the classification part of Sun et al. 2024.

    Unlike theirs it has no term for the watch time restored from the probabilities, and none for
    probabilities that do not descend with m; and it is a mean over m, whose size does not depend
    on M.

    Args:
        logits: float [..., M], of T > t_m.
        thresholds: float [M], t_m, in the unit of watch_time.
        watch_time: float [...], T.

    Returns:
        float [...].
    """
    is_longer = ops.cast(ops.greater(ops.expand_dims(watch_time, -1), thresholds), logits.dtype)
    return ops.mean(binary_cross_entropy(logits, is_longer), axis=-1)


def gaussian_negative_log_likelihood(mean: Tensor, deviation: Tensor, targets: Tensor) -> Tensor:
    """Return log(s) + ((y - m) / s)^2 / 2 + log(2 pi) / 2, after Nix & Weigend 1994.

    Args:
        mean: float [...], m.
        deviation: float [...], s > 0, the standard deviation.
        targets: float [...], y.

    Returns:
        float [...], least in the mean at the conditional mean and standard deviation.
    """
    error = (targets - mean) / deviation
    return ops.log(deviation) + 0.5 * ops.square(error) + 0.5 * math.log(2.0 * math.pi)


def negative_sampling(label_logits: Tensor, negative_logits: Tensor, is_label: Tensor) -> Tensor:
    """Tell one item from some drawn: - log s(z) - sum_k log s(-z_k), Mikolov et al. 2013, eq. 4.

    Args:
        label_logits: float [...], z.
        negative_logits: float [..., K], z_k.
        is_label: bool [..., K], negatives that are the label itself, which count for nothing.

    Returns:
        float [...].
    """
    of_negatives = ops.where(is_label, 0.0, ops.softplus(negative_logits))
    return ops.softplus(-label_logits) + ops.sum(of_negatives, axis=-1)


def multinomial(logits: Tensor, counts: Tensor) -> Tensor:
    """Return - sum_j n_j log softmax_j(z), Liang et al. 2018, eq. 2: float [..., N] twice -> [...].

    Least where the softmax is n_j / sum n; what does not depend on z is left out.
    """
    return -ops.sum(counts * ops.log_softmax(logits, axis=-1), axis=-1)


def divergence_from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(m, diag e^v) || N(0, 1)) = sum_j (m_j^2 + e^v_j - v_j - 1) / 2.

    Kingma & Welling 2014, appendix B.

    Args:
        mean, log_variance: float [..., L], m and v.

    Returns:
        float [...], 0 where m = 0 and v = 0, and above it elsewhere.
    """
    parts = ops.square(mean) + ops.exp(log_variance) - log_variance - 1.0
    return 0.5 * ops.sum(parts, axis=-1)
