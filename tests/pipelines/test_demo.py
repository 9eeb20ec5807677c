import pytest

from pipelines.demo import serve_bundle
from recsys.errors import RecsysError
from serving.client import RecommenderClient, watch


def test_served_bundle_answers_and_learns_from_a_watch(tiny_run, tmp_path):
    with serve_bundle(tiny_run / "bundle", tmp_path / "store") as (address, line):
        assert "ready in" in line
        with RecommenderClient(address, timeout_seconds=10) as client:
            first = client.recommend_items("somebody", page_size=3)
            assert list(first.degraded_stages) == []
            item = first.items[0].item_id
            client.record_events("somebody", [watch(item, 600_000, event_id="e")])
            again = client.recommend_items("somebody", page_size=50)
    assert item not in [each.item_id for each in again.items]


def test_server_that_cannot_start_names_its_log(tiny_run, tmp_path):
    refused = pytest.raises(RecsysError, match=r"server\.log")
    with refused, serve_bundle(tiny_run / "prepared", tmp_path / "store"):
        pass
    assert "expected a bundle" in (tmp_path / "server.log").read_text()
