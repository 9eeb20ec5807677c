"""Many experiments at once, so that simulations take no loop."""

import numpy as np

from recsys.experiment.moments import Moments


def moments_of_means(values):
    """Moments of a mean over users in many experiments: float [E, U] -> experiments [E]."""
    number, users = values.shape
    mean = np.zeros((number, 4))
    mean[:, 0], mean[:, 1:] = values.mean(axis=1), (1, 0, 1)
    covariance = np.zeros((number, 4, 4))
    covariance[:, 0, 0] = values.var(axis=1, ddof=1)
    return Moments(np.full(number, float(users)), mean, covariance)
