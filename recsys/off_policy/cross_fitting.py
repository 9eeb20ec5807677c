"""Predictions of each row by a model that never saw its user.

A model that learned from a row predicts it too well: the errors that correct a doubly robust
estimate would be too small, and its interval too narrow.

References:
    Chernozhukov et al., Double/debiased machine learning for treatment and structural parameters,
        The Econometrics Journal 2018.
"""

from collections.abc import Callable

import numpy as np


def cross_fit(
    fit_and_predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    users: np.ndarray,
    *,
    num_folds: int = 2,
    seed: int,
) -> np.ndarray:
    """Split users into folds; predict each fold by a model of the others.

    Args:
        fit_and_predict: Takes the numbers of the rows to learn from, int64 [M], and of those to
            predict, int64 [P]; returns float [P, ...].
        users: int [B], the user of each row.
        num_folds: At least 2.
        seed: Of the split.

    Returns:
        float64 [B, ...].

    Raises:
        ValueError: There are fewer users than folds, or fewer than two folds.
    """
    distinct, user = np.unique(users, return_inverse=True)
    if not 2 <= num_folds <= len(distinct):
        raise ValueError(
            f"expected 2 folds or more, and a user for each, got {num_folds} folds and "
            f"{len(distinct)} users"
        )
    fold = np.random.default_rng(seed).permutation(len(distinct))[user] % num_folds
    parts = []
    for number in range(num_folds):
        held = np.flatnonzero(fold == number)
        predicted = fit_and_predict(np.flatnonzero(fold != number), held)
        parts.append((held, np.asarray(predicted, np.float64)))
    out = np.empty((len(users), *parts[0][1].shape[1:]))
    for held, predicted in parts:
        out[held] = predicted
    return out
