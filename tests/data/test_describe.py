import json

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.describe import Sample, describe
from recsys.data.log import Log
from recsys.data.sources import open_log
from recsys.settings import DataSettings
from tests.worlds import as_log, constant_watch_events


@pytest.fixture
def summary():
    events = constant_watch_events(num_users=4, item_watch_ms=[0, 1000, 2000])
    odd = events.slice(0, 1).set_column(0, "user_id", pa.array([""]))
    items = pa.table({"item_id": ["i0", "i1"], "title": ["zero", None]})
    return describe(as_log(pa.concat_tables([events, odd]), num_batches=3, items=items))


def test_counts_are_those_of_the_log(summary):
    events = summary["events"]
    assert (events["rows"], events["users"], events["items"]) == (12, 4, 3)
    assert events["impressions"] == 12
    assert events["rejected"] == {"user_id is empty": 1}
    assert events["first_time"] == "2026-01-01T00:00:00+00:00"
    assert events["last_time"] == "2026-01-01T00:02:00+00:00"


def test_quantiles_are_those_of_the_known_watches(summary):
    watch_ms = summary["events"]["watch_ms"]
    assert (watch_ms["mean"], watch_ms["p50"], watch_ms["p99"]) == (1000, 1000, 2000)


def test_heaviest_ids_come_first_ties_by_id(summary):
    heaviest = summary["events"]["heaviest_items"]
    assert heaviest == [{"id": f"i{k}", "rows": 4} for k in range(3)]


def test_share_of_nulls_is_by_column(summary):
    assert summary["items"]["null_share"] == {"item_id": 0.0, "title": 0.5}


def test_column_missing_in_a_batch_counts_as_null():
    events = constant_watch_events(num_users=1, item_watch_ms=[5, 6])
    batches = [events.slice(0, 1), events.slice(1, 1).drop_columns(["watch_ms"])]
    found = describe(Log(lambda: iter(batches)))
    assert found["events"]["null_share"]["watch_ms"] == 0.5


def test_summary_is_json():
    log = open_log(DataSettings(source="synthetic", options={"users": 20, "items": 40}), 0)
    found = json.loads(json.dumps(describe(log), allow_nan=False))
    assert found["searches"]["rows"] > 0
    assert found["users"]["rows"] == 20


def test_bad_files_are_told(tmp_path):
    (tmp_path / "1.csv").write_text("user_id,item_id,sequence\nu,i,1\nu,j\n")
    (tmp_path / "2.parquet").write_bytes(b"")
    found = describe(open_log(DataSettings(source="table", path=str(tmp_path)), 0))
    assert list(found["bad_files"]) == [str(tmp_path / "2.parquet")]
    assert found["bad_lines"] == 1


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_sample_keeps_evenly_spaced_values(batch):
    sample, values = Sample(limit=10), np.arange(1000)
    for first in range(0, 1000, batch):
        sample.add(values[first : first + batch])
    kept = sample.values()
    assert 5 <= len(kept) <= 21
    assert len(set(np.diff(kept))) == 1
    assert kept[0] == 0


def test_small_sample_keeps_everything():
    sample = Sample(limit=10)
    sample.add(np.arange(4))
    sample.add(np.arange(4, 9))
    assert sample.values().tolist() == list(range(9))
