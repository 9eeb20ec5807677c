import time

import pyarrow as pa

from recsys.data.sources import open_log
from recsys.data.validation import validate_events, validate_items
from recsys.settings import DataSettings

SETTINGS = DataSettings(source="globo")
HEADER = (
    "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,"
    "click_environment,click_deviceGroup,click_os,click_country,click_region,click_referrer_type\n"
)


def test_original_hours_are_read_in_order(tmp_path):
    for hour, user in ((1, 8), (0, 7)):
        row = f"{user},150682632926779{hour},1506826329000,2,234853,1506826800026,4,3,2,1,21,1\n"
        (tmp_path / f"clicks_hour_00{hour}.csv").write_text(HEADER + row)
    (tmp_path / "articles_metadata.csv").write_text(
        "article_id,category_id,created_at_ts,publisher_id,words_count\n"
        "234853,281,1506826000000,0,168\n"
    )
    log = open_log(DataSettings(source="globo", path=str(tmp_path)), 0)
    events = pa.concat_tables(validate_events(table, SETTINGS).accepted for table in log.events())
    first, second = events.to_pylist()
    assert first == {
        "user_id": "7",
        "item_id": "234853",
        "event_time": first["event_time"],
        "is_impression": False,
        "clicked": True,
        "device": "3",
        "country": "1",
        "session_id": "1506826329267790",
        "os": "2",
        "region": "21",
        "referrer_type": "1",
        "environment": "4",
    }
    assert first["event_time"].isoformat() == "2017-10-01T03:00:00.026000+00:00"
    assert second["user_id"] == "8"
    (article,) = validate_items(log.items).accepted.to_pylist()
    assert (article["topics"], article["channel_id"]) == (["281"], "0")
    assert article["upload_time"].isoformat() == "2017-10-01T02:46:40+00:00"


def test_real_log_streams_with_its_stated_rows(real_data):
    log = open_log(DataSettings(source="globo", path=str(real_data / "globo-news")), 0)
    started = time.process_time()
    num_rows, times = 0, []
    for table in log.events():
        validated = validate_events(table, SETTINGS)
        assert validated.reasons == {}
        num_rows += validated.accepted.num_rows
        times.append(pa.compute.max(validated.accepted["event_time"]).as_py())
    assert num_rows == 2_590_647
    assert max(times).isoformat().startswith("2017-10-13")
    # Seconds of one core: twice the budget, for a machine that others use too.
    assert time.process_time() - started < 12
