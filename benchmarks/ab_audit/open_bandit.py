"""Open Bandit, men's campaign: the log of one policy estimates the value of the other.

Both policies ran in the same week, so the mean clicks of each one's own log are the truth that the
other's log is asked for. The random policy shows each of 34 items alike. Of the Thompson-sampling
one, which learned on, the log has the propensities of what was shown; what it would have done on
the random log is taken as its share of each item at each place over the week (from what it showed,
not from clicks). There are no user ids: rows are taken as independent.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys.errors import ComparisonError
from recsys.evaluation.intervals import mean_intervals
from recsys.off_policy.cross_fitting import cross_fit
from recsys.off_policy.policies import LoggedRows, Target, estimate_value

ROUNDS = 2000
PRIOR_ROWS = 100.0
"""Rows of the mean reward that each item's own rows are added to: a click is rare."""


def audit(folder: Path, seed: int) -> dict[str, Any]:
    """Return the estimates of either policy from the other's log, beside the truth."""
    logs = {
        name: pd.read_parquet(folder / "open-bandit" / f"{name}_men.parquet")
        for name in ("random", "bts")
    }
    return {
        "open_bandit": {
            f"{target}_from_{other}": _estimate(logs[other], logs[target], seed)
            for target, other in (("random", "bts"), ("bts", "random"))
        }
    }


def _estimate(log: pd.DataFrame, truth: pd.DataFrame, seed: int) -> dict[str, Any]:
    rows = np.arange(len(log))
    rewards = log["click"].to_numpy(float)
    policy = _shares(truth)
    places, items = log["position"].to_numpy() - 1, log["item_id"].to_numpy()

    def fit_and_predict(learned: np.ndarray, held: np.ndarray) -> np.ndarray:
        model = _item_means(items[learned], rewards[learned], policy.shape[1])
        return np.stack([model[items[held]], policy[places[held]] @ model], axis=1)

    predictions = cross_fit(fit_and_predict, rows, seed=seed)
    logged = LoggedRows(rewards, log["propensity_score"].to_numpy(), rows)
    target = Target(policy[places, items], predictions[:, 0], predictions[:, 1])
    clicks = {"truth": truth["click"].to_numpy(float)}
    own = mean_intervals(clicks, np.arange(len(truth)), rounds=ROUNDS, seed=seed)
    try:
        found = estimate_value(logged, target, rounds=ROUNDS, seed=seed)
    except ComparisonError as error:
        return {"truth": asdict(own["truth"]), "refused": str(error)}
    estimates = {name: asdict(interval) for name, interval in found.estimates.items()}
    return {
        "truth": asdict(own["truth"]),
        "estimates": estimates,
        "estimates_whose_interval_meets_the_truths": sum(
            interval.low <= own["truth"].high and own["truth"].low <= interval.high
            for interval in found.estimates.values()
        ),
        "overlap": asdict(found.overlap),
    }


def _shares(log: pd.DataFrame) -> np.ndarray:
    """Return a policy's share of each item at each place: float64 [3, N]."""
    if log["propensity_score"].nunique() == 1:
        number = int(log["item_id"].max()) + 1
        return np.full((3, number), 1 / number)
    counts = np.zeros((3, int(log["item_id"].max()) + 1))
    np.add.at(counts, (log["position"].to_numpy() - 1, log["item_id"].to_numpy()), 1)
    return counts / counts.sum(axis=1, keepdims=True)


def _item_means(items: np.ndarray, rewards: np.ndarray, number: int) -> np.ndarray:
    counts = np.bincount(items, minlength=number)
    sums = np.bincount(items, rewards, number)
    return (sums + PRIOR_ROWS * rewards.mean()) / (counts + PRIOR_ROWS)
