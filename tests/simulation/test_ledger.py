import numpy as np
import pytest

from recsys.data.sources.world import DAY_US
from recsys.simulation.ledger import available_by_day, gini


def test_gini_of_hand_worked_counts():
    assert gini(np.array([1, 1, 1, 1])) == 0
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    assert gini(np.array([3, 1])) == pytest.approx(0.25)
    assert np.isnan(gini(np.zeros(3)))


def test_gini_is_half_the_mean_difference_over_the_mean():
    counts = np.random.default_rng(0).integers(0, 50, 30)
    differences = np.abs(counts[:, None] - counts).mean()
    assert gini(counts) == pytest.approx(differences / (2 * counts.mean()))


def test_items_are_there_from_the_day_of_their_upload_on():
    uploads = np.array([0, 100 + DAY_US, 100 + 2 * DAY_US])
    found = available_by_day(uploads, 50, 2)
    assert found.tolist() == [[True, False, False], [True, True, False]]
