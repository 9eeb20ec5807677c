import json

import numpy as np
import pytest

from pipelines.evaluate_ranking import seconds_ratio_by
from recsys.ranking.predictions import Predictions

NAT = "NaT"


def predictions(**changes):
    """Six impressions; before calibration 1 s is predicted for each."""
    ones = np.ones(6)
    columns = {
        "values": {
            "expected_seconds": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            "median_seconds": ones,
            "completion": ones,
        },
        "uncalibrated_seconds": ones,
        "watch_ms": np.array([2000, 2000, 2000, 8000, 0, 6000]),
        "duration_ms": np.full(6, -1),
        "completed": np.full(6, -1),
        "clicked": np.full(6, -1),
        "liked": np.full(6, -1),
        "user": np.arange(6),
        "item": np.arange(6),
        "surface": np.array([1, 1, 2, 2, 0, 1]),
        "duration_bucket": np.array([1, 2, 2, 3, 0, 1]),
        "day": np.array(
            ["2026-01-09", "2026-01-08", "2026-01-08", NAT, NAT, "2026-01-08"], "datetime64[D]"
        ),
    }
    return Predictions(**columns | changes)


def spelled(rows):
    return [tuple(row.values()) for row in rows]


def test_ratios_of_each_group_are_sums_over_sums():
    found = seconds_ratio_by(predictions(), ["unknown", "home", "search", "none"], (10.0, 60.0))
    assert list(found) == ["surface", "duration", "day"]
    nan = pytest.approx(float("nan"), nan_ok=True)
    # Name, impressions, ratio before and after.
    assert spelled(found["surface"]) == [
        ("unknown", 1, nan, nan),
        ("home", 3, 3 / 10, 9 / 10),
        ("search", 2, 2 / 10, 7 / 10),
    ]
    assert spelled(found["duration"]) == [
        ("below 10 s", 2, 2 / 8, 7 / 8),
        ("10 to 60 s", 2, 2 / 4, 5 / 4),
        ("from 60 s", 1, 1 / 8, 4 / 8),
        ("unknown", 1, nan, nan),
    ]
    assert spelled(found["day"]) == [
        ("2026-01-08", 3, 3 / 10, 11 / 10),
        ("2026-01-09", 1, 1 / 2, 1 / 2),
    ]


def test_edges_of_durations_are_spelled_short():
    test = predictions(duration_bucket=np.array([1, 2, 3, 3, 3, 3]))
    rows = seconds_ratio_by(test, [], (27.058001, 12_000.0))["duration"]
    names = [row["name"] for row in rows]
    assert names == ["below 27.1 s", "27.1 to 12,000 s", "from 12,000 s"]


def test_log_without_times_or_surfaces_has_no_such_ratios():
    test = predictions(day=np.full(6, NAT, "datetime64[D]"), surface=np.zeros(6, int))
    assert list(seconds_ratio_by(test, [], (10.0, 60.0))) == ["duration"]


def test_durations_without_edges_are_known_or_unknown():
    test = predictions(duration_bucket=np.array([0, 1, 1, 1, 1, 1]))
    rows = seconds_ratio_by(test, [], ())["duration"]
    assert [(row["name"], row["impressions"]) for row in rows] == [("known", 5), ("unknown", 1)]


def test_evaluated_run_holds_ratios_of_all_test_impressions(tiny_run):
    (path,) = tiny_run.rglob("metrics.json")
    figures = json.loads(path.read_text())
    tables = figures["seconds_ratio_by"]
    assert list(tables) == ["surface", "duration", "day"]
    for rows in tables.values():
        assert sum(row["impressions"] for row in rows) == figures["ranking"]["impressions"]
    assert {row["name"] for row in tables["day"]} <= {"2026-01-08", "2026-01-09"}
    assert len(tables["duration"]) >= 8
