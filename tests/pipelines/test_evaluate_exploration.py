import numpy as np

from pipelines.evaluate_exploration import coverage_by_size


def test_coverage_is_counted_by_bands_of_known_watches():
    sizes = np.array([0, 0, 1, 4, 5, 8])
    seconds = np.array([5.0, 9.0, 1.0, 5.0, 5.0, 20.0])
    found = coverage_by_size(sizes, seconds, np.full(6, 2.0), np.full(6, 8.0), 8)
    rows = [tuple(row.values()) for row in found]
    assert rows == [
        ("0", 2, 0.5, 0.0, 0.5),
        ("1 to 4", 2, 0.5, 0.5, 0.0),
        ("5 or more", 2, 0.5, 0.0, 0.5),
    ]


def test_bounds_lie_within_the_interval():
    found = coverage_by_size(
        np.zeros(2, int), np.array([2.0, 8.0]), np.full(2, 2.0), np.full(2, 8.0), 8
    )
    assert found[0]["coverage"] == 1.0


def test_bands_without_impressions_are_absent():
    nothing = np.zeros(0)
    assert coverage_by_size(nothing.astype(int), nothing, nothing, nothing, 20) == []
