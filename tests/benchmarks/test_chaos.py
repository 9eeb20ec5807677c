"""What the trials go by: combinations of faults, broken parts, and which answers are wrong."""

import json

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from benchmarks.chaos.server import Breakable, Faults
from benchmarks.chaos.server_trials import FAULTS, STAGES, combinations
from benchmarks.chaos.world import MIXED, PAGE_SIZE, Answers, content
from benchmarks.load import Calls
from serving.v1 import recommender_pb2 as pb


class Part:
    def search(self, number):
        return np.full((1, 4), number, float), np.arange(4)

    def __len__(self):
        return 4


@pytest.fixture
def part(tmp_path):
    path = tmp_path / "faults.json"
    path.write_text("{}")

    def broken(fault):
        path.write_text(json.dumps({"index": fault} if fault else {}))
        return Breakable(Part(), "search", "index", Faults(path))

    return broken


def test_every_stage_is_broken_in_every_way_alone_and_with_every_other():
    found = combinations()
    alone = [faults for faults in found if len(faults) == 1]
    assert len(alone) == len(STAGES) * len(FAULTS) - 1
    assert {"store": "nan"} not in alone
    assert len(found) == len(alone) + 3 * 16 + 3 * 12
    assert len({json.dumps(faults, sort_keys=True) for faults in found}) == len(found)


def test_broken_part_breaks_as_it_is_told(part):
    whole = part("")
    np.testing.assert_array_equal(whole.search(7)[0], np.full((1, 4), 7.0))
    assert len(whole) == 4
    scores, rows = part("nan").search(7)
    assert np.isnan(scores).tolist() == [[True, False, True, False]]
    assert rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="index is broken"):
        part("raise").search(7)


def answer(first=0, *, factor=1.0, swapped=(), **changes):
    """Items first, first + 1, ..., expected for 100, 99, ... seconds times the factor."""
    places = list(range(PAGE_SIZE))
    for one, other in [swapped] if swapped else []:
        places[one], places[other] = places[other], places[one]
    items = [
        pb.RecommendedItem(
            item_id=f"i{first + number}",
            position=place,
            expected_watch_duration=Duration(
                nanos=int((100 - TIES.get(place, place)) * 1e6 * factor)
            ),
        )
        for place, number in enumerate(places)
    ]
    return pb.RecommendItemsResponse(bundle_id="a", items=items, **changes)


TIES = {6: 5}
"""The item at place 6 is expected for as long as that at 5."""


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (answer(), ""),
        (answer(1), MIXED),
        (answer(factor=1 + 1e-6), ""),
        (answer(factor=1.001), MIXED),
        (answer(swapped=(5, 6)), ""),
        (answer(swapped=(6, 7)), MIXED),
        (answer(swapped=(0, 1)), MIXED),
        (answer(1, degraded_stages=["ranker"]), ""),
        (answer(90, degraded_stages=["ranker"]), "seen items"),
        (answer(90, degraded_stages=["state"]), ""),
        (pb.RecommendItemsResponse(bundle_id="a"), "0 items"),
        (pb.RecommendItemsResponse(bundle_id="b", items=answer().items), "unknown bundle"),
        (pb.RecommendItemsResponse(bundle_id="a", items=answer().items[::-1]), "positions"),
    ],
)
def test_wrong_answers_are_seen(given, problem):
    answers = Answers("", {("a", "u"): frozenset({"i100"})})
    answers._items["a", "u"] = content(answer())
    assert answers.problem("u", given) == problem


def test_rates_count_answers_alone_and_in_time():
    calls = Calls(np.zeros(4), np.array([10.0, 60.0, 20.0, 50.0]), ["", "", "degraded", ""], 2.0)
    assert (len(calls), calls.errors) == (4, {"degraded": 1})
    assert calls.per_second == 1.5
    assert calls.per_second_within(50) == 1.0
    assert calls.percentile(100) == 60
