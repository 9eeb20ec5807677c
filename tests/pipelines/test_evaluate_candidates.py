import numpy as np

from pipelines.evaluate_candidates import candidate_lists, recall_by_source
from pipelines.held_out import held_out_watches
from recsys.bundle import Bundle
from recsys.data.examples import TEST
from recsys.data.prepared import load_prepared
from recsys.recommender import Recommender


def test_recall_by_source_is_that_of_its_own_candidates(tiny_run, tiny_bundle):
    directory = tiny_bundle("serving.sources.recent_popularity=20", "serving.sources.new_items=9")
    recommender = Recommender(Bundle.load(directory))
    prepared = load_prepared(tiny_run / "prepared")
    held_out = held_out_watches(prepared, TEST, max_watches=90, rng=np.random.default_rng(0))
    lists = candidate_lists(recommender, held_out, 10, seen_removed=True)
    requests = list(held_out.requests(seen_removed=True))
    every = [recommender.candidates([request])[0] for request in requests]
    np.testing.assert_array_equal(lists.lists, [found.rows[:10] for found in every])
    found = {
        name: np.array(
            [
                target in each.rows[~np.isnan(each.found_by[name])]
                for target, each in zip(held_out.targets, every, strict=True)
            ]
        )
        for name in ("candidate_net", "recent_popularity", "new_items")
    }
    figures = {row["name"]: row for row in recall_by_source(lists)}
    assert list(figures) == list(found)
    for name, row in figures.items():
        others = np.any([found[other] for other in found if other != name], axis=0)
        assert row["recall"] == found[name].mean()
        assert row["alone"] == (found[name] & ~others).mean()
    assert 0 < figures["recent_popularity"]["recall"] < figures["candidate_net"]["recall"]
    assert figures["recent_popularity"]["candidates"] == 20
    assert figures["candidate_net"]["alone"] > 0
