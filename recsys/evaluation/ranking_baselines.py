"""What any ranking net has to beat: item means, and gradient-boosted trees on the same features.

References:
    Ke et al., LightGBM: a highly efficient gradient boosting decision tree, NeurIPS 2017.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import lightgbm
import numpy as np

MAX_TREES = 500
PATIENCE_TREES = 30
PRIOR_IMPRESSIONS = 10.0
"""An item's mean counts the overall mean as so many impressions more."""

Objective = Literal["l1", "l2", "binary"]
"""Of the trees: the median, the mean, a probability."""

Predict = Callable[[np.ndarray], np.ndarray]
"""Features float [N, F] -> predictions float64 [N]."""


def item_means(items: np.ndarray, values: np.ndarray, num_items: int) -> np.ndarray:
    """Return the mean value of each item, shrunk towards that of all.

    Args:
        items: int [N], rows, -1 unknown.
        values: float [N], watch seconds or labels.
        num_items: Items of the catalogue.

    Returns:
        float64 [num_items + 1]; the last one, which row -1 finds, is the overall mean.
    """
    overall = float(values.mean()) if len(values) else 0.0
    known = items >= 0
    sums = np.bincount(items[known], values[known], minlength=num_items + 1)
    counts = np.bincount(items[known], minlength=num_items + 1)
    return (sums + PRIOR_IMPRESSIONS * overall) / (counts + PRIOR_IMPRESSIONS)


def fit_trees(
    objective: Objective,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    validation: tuple[np.ndarray, np.ndarray],
    categorical: Sequence[int] = (),
    seed: int,
    refit: bool = False,
    num_threads: int = 1,
) -> Predict:
    """Fit LightGBM, stopped where the validation loss is least.

    Args:
        objective: `l1` for the median, `l2` for the mean, `binary` for a probability.
        features: float [N, F], NaN missing.
        labels: float [N].
        validation: Features and labels of later rows.
        categorical: Columns that hold codes, not amounts.
        seed: Of the sampling of rows and columns.
        refit: Fit as many trees once more, on the validation rows too.
        num_threads: Of the training. Waiting threads spin: on two busy cores two are slower
            than one.
    """
    parameters = {
        "objective": objective,
        "learning_rate": 0.05,
        "num_leaves": 63,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "num_threads": num_threads,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    columns = list(categorical)
    training = lightgbm.Dataset(features, labels, categorical_feature=columns)
    held_out = lightgbm.Dataset(*validation, categorical_feature=columns, reference=training)
    stop = lightgbm.early_stopping(PATIENCE_TREES, verbose=False)
    model = lightgbm.train(parameters, training, MAX_TREES, [held_out], callbacks=[stop])
    num_trees = model.best_iteration
    if refit:
        pairs = zip((features, labels), validation, strict=True)
        every = lightgbm.Dataset(
            *(np.concatenate(pair) for pair in pairs), categorical_feature=columns
        )
        model = lightgbm.train(parameters, every, num_trees)
    return lambda rows: np.asarray(model.predict(rows, num_iteration=num_trees))
