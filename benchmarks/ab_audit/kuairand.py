"""CUPED and A/A tests on the users of KuaiRand-Pure: 25 to 30 April before, 1 to 4 May the test.

The users are those with an impression in the test, as they would be in one that assigns on the
first visit; who is new has 0 before it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.experiment.checks import self_test
from recsys.experiment.effect import compare
from recsys.experiment.moments import Moments, columns_of

FIRST_DAY = 20220501


def audit(folder: Path, num_experiments: int, seed: int) -> dict[str, Any]:
    """Return the variance that CUPED cuts, and how often A/A tests find something."""
    rows = pq.read_table(
        folder / "kuairand-pure" / "impressions.parquet",
        columns=["user_id", "date", "play_time_ms"],
    )
    users = rows["user_id"].to_numpy()
    seconds = pc.cast(rows["play_time_ms"], pa.float64()).to_numpy() / 1000
    is_test = pc.cast(rows["date"], pa.int64()).to_numpy() >= FIRST_DAY
    known, user = np.unique(users, return_inverse=True)
    number = len(known)
    watch, before = (np.bincount(user[own], seconds[own], number) for own in (is_test, ~is_test))
    shown, shown_before = (np.bincount(user[own], minlength=number) for own in (is_test, ~is_test))
    present = shown > 0
    total = columns_of(watch[present], before=before[present])
    both = present & (shown_before > 0)
    per_impression = columns_of(
        watch[both], per=shown[both], before=before[both], per_before=shown_before[both]
    )
    return {
        "cuped_cut_kuairand": _cut(total),
        "cuped_cut_kuairand_per_impression": _cut(per_impression),
        "kuairand_users": int(present.sum()),
        "kuairand_users_before": int(both.sum()),
        "kuairand_aa_false_positive": self_test(
            total, num_experiments=num_experiments, seed=seed
        ).rejected,
    }


def _cut(columns: np.ndarray) -> float:
    arm = Moments.of(columns)
    return float(compare(arm, arm).variance_cut)
