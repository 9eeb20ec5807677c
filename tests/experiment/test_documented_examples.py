import re
from pathlib import Path

import numpy as np

from recsys.experiment.analysis import MetricRows

TEXT = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()


def examples():
    return re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_example_of_a_log_runs():
    rng = np.random.default_rng(0)
    number = 5_000
    logging, of_new, of_old = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    items = rng.choice(3, number, p=logging)
    names = {
        "watch_seconds": items + rng.gamma(1.0, size=number),
        "propensities": logging[items],
        "users": rng.integers(500, size=number),
        "new_probabilities": of_new[items],
        "old_probabilities": of_old[items],
        "predicted_seconds": items * 1.0,
        "expected_seconds": np.full(number, of_new @ np.arange(3)),
        "old_expected_seconds": np.full(number, of_old @ np.arange(3)),
    }
    exec(examples()[0], names)
    assert names["gain"].low < (of_new - of_old) @ np.arange(3) < names["gain"].high


def test_example_of_a_test_runs():
    rng = np.random.default_rng(0)
    users = np.array(sorted(f"u{number}" for number in range(1000)))
    weeks = [MetricRows(rng.choice(users, 5000), rng.gamma(1.0, size=5000)) for _ in range(4)]
    names = {
        "user_ids": users,
        "users": users,
        "arms": np.where(rng.random(1000) < 0.5, "control", "treatment"),
        **dict(zip(["last_week", "week_before", "rows", "before"], weeks, strict=True)),
    }
    exec(examples()[1], names)
    assert names["result"].num_users.keys() == {"control", "treatment"}
