"""What a bundle of the last refresh could have returned."""

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.candidates.known_items import KnownItems
from recsys.data.timelines import WatchHistories
from recsys.settings import CandidateSettings

DAY = 24 * 60 * 60_000_000


def histories_of(watches):
    """Make histories of one user each: (row, moment)."""
    code = np.array([row + 1 for row, _ in watches], np.int32)
    moment = np.array([moment for _, moment in watches])
    return WatchHistories(np.arange(len(watches) + 1), code, moment)


def test_an_item_is_known_from_the_refresh_after_its_first_watch():
    histories = histories_of([(0, 3 * DAY), (0, DAY + 5), (1, 2 * DAY), (1, 5 * DAY)])
    known = KnownItems(histories, num_items=3, refresh_minutes=1440)
    moments = np.array([DAY + 6, 2 * DAY - 1, 2 * DAY, 2 * DAY + 7, 3 * DAY])
    assert known.are_known(np.zeros(5, int), moments).tolist() == [False, False, True, True, True]
    # Its first watch is at the moment of a refresh, which it comes too late for.
    assert known.are_known(np.ones(5, int), moments).tolist() == [False] * 4 + [True]
    assert not known.are_known(np.full(5, 2), moments).any()


def test_items_and_moments_are_paired_with_each_other():
    histories = histories_of([(0, 1), (1, DAY)])
    known = KnownItems(histories, num_items=2, refresh_minutes=60)
    found = known.are_known(np.array([0, 1]), np.array([[DAY], [2 * DAY]]))
    assert found.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("name", ["seen_hidden", "catalogue_refresh_minutes"])
def test_the_full_softmax_hides_nothing(name):
    CandidateSettings(loss="sampled_softmax", **{name: 1})
    with pytest.raises(ValidationError, match=f"{name} needs loss"):
        CandidateSettings(loss="full_softmax", **{name: 1})
