"""LightGBM on the flat rows: a median, a mean and a probability, or an order within users.

References:
    Ke et al. 2017, LightGBM: A Highly Efficient Gradient Boosting Decision Tree.
    Burges 2010, From RankNet to LambdaRank to LambdaMART: An Overview.
"""

from collections.abc import Mapping

import lightgbm
import numpy as np

from benchmarks.peers.ranking_rows import PeerRows, Scores
from recsys.evaluation.ranking_baselines import MAX_TREES, PATIENCE_TREES, Objective, fit_trees

HEADS: Mapping[str, Objective] = {
    "expected_seconds": "l2",
    "median_seconds": "l1",
    "completion": "binary",
}
NDCG_AT = 10
"""Places of a user's list that the early stopping looks at."""


def three_trees(training: PeerRows, validation: PeerRows, test: PeerRows, *, seed: int) -> Scores:
    """Fit one model a head, with the parameters of the report's own baseline."""
    scores = {}
    for name, objective in HEADS.items():
        predict = fit_trees(
            objective,
            *_labelled(training, name),
            validation=_labelled(validation, name),
            categorical=training.features.categorical,
            seed=seed,
            refit=True,
        )
        scores[name] = predict(test.features.values)
    return scores


def lambdarank(training: PeerRows, validation: PeerRows, test: PeerRows, *, seed: int) -> Scores:
    """Learn the order of each user's impressions, completed ones first.

    The parameters are those of the other trees. Pairs without one of the 30 best, LightGBM's
    default, are not learned from; few users have more impressions.
    """
    parameters = {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [NDCG_AT],
        "learning_rate": 0.05,
        "num_leaves": 63,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.8,
        "num_threads": 1,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    data = _lists(training)
    held_out = _lists(validation, reference=data)
    stop = lightgbm.early_stopping(PATIENCE_TREES, verbose=False)
    model = lightgbm.train(parameters, data, MAX_TREES, [held_out], callbacks=[stop])
    scores = model.predict(test.features.values, num_iteration=model.best_iteration)
    return {"completion": np.asarray(scores)}


def _labelled(rows: PeerRows, head: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and labels of the rows whose label is known."""
    if head != "completion":
        return rows.features.values, rows.watch_seconds
    known = rows.features.completed >= 0
    return rows.features.values[known], rows.features.completed[known]


def _lists(rows: PeerRows, reference: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
    """Return the rows of known label, each user's together."""
    known = np.flatnonzero(rows.features.completed >= 0)
    order = known[np.argsort(rows.users[known], kind="stable")]
    _, sizes = np.unique(rows.users[order], return_counts=True)
    return lightgbm.Dataset(
        rows.features.values[order],
        rows.features.completed[order],
        group=sizes,
        categorical_feature=list(rows.features.categorical),
        reference=reference,
    )
