import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.data.sources import open_log
from recsys.data.validation import validate_events, validate_items, validate_users
from recsys.settings import DataSettings

HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab\n"
)
STANDARD = "7,99,20220425,0,1650812741436,1,0,0,0,0,0,1,61802,49866,0,0,0,0,1\n"
RANDOM = "8,98,20220501,2300,1651417200000,0,1,0,0,0,0,0,0,0,0,0,0,1,4\n"


@pytest.fixture
def original(tmp_path):
    """The original layout, with one row a file."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "log_standard_4_22_to_5_08_pure.csv").write_text(HEADER + STANDARD)
    (data / "log_random_4_22_to_5_08_pure.csv").write_text(HEADER + RANDOM)
    (data / "user_features_pure.csv").write_text(
        "user_id,user_active_degree,is_lowactive_period,follow_user_num,onehot_feat4\n"
        "7,full_active,0,514,3.0\n8,UNKNOWN,1,0,\n"
    )
    (data / "video_features_basic_pure.csv").write_text(
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
        "server_width,server_height,music_id,music_type,tag\n"
        '99,5,NORMAL,2022-04-10,Web,0.0,49866.0,720.0,1280.0,12,9.0,"20,43"\n'
        "98,6,AD,2022-04-11,Web,0.0,,720.0,1280.0,13,,\n"
    )
    return open_log(DataSettings(source="kuairand", path=str(tmp_path)), 0)


def accepted(log):
    settings = DataSettings(source="kuairand")
    validated = [validate_events(table, settings) for table in log.events()]
    assert not any(batch.reasons for batch in validated)
    return pa.concat_tables(batch.accepted for batch in validated)


def test_original_log_becomes_events(original):
    random, standard = accepted(original).to_pylist()
    assert standard["user_id"] == "7"
    assert standard["item_id"] == "99"
    assert standard["event_time"].isoformat() == "2022-04-24T15:05:41.436000+00:00"
    assert (standard["watch_ms"], standard["duration_ms"]) == (61802, 49866)
    assert (standard["clicked"], standard["long_view"], standard["liked"]) == (True, True, False)
    assert (standard["surface"], standard["policy"]) == ("1", "standard")
    assert standard["split_date"] == "20220425"
    assert (random["policy"], random["liked"], random["surface"]) == ("random", True, "4")
    assert random["duration_ms"] is None


def test_original_videos_become_items(original):
    first, second = validate_items(original.items).accepted.to_pylist()
    assert (first["item_id"], first["channel_id"]) == ("99", "5")
    assert first["topics"] == ["20", "43"]
    assert first["duration_ms"] == 49866
    assert first["upload_time"].isoformat() == "2022-04-09T16:00:00+00:00"
    assert (first["music_id"], first["music_type"]) == ("12", "9")
    assert (second["topics"], second["duration_ms"], second["music_type"]) == (None, None, None)


def test_original_users_keep_counts_as_numbers_and_codes_as_text(original):
    first, second = validate_users(original.users).accepted.to_pylist()
    assert first == {
        "user_id": "7",
        "user_active_degree": "full_active",
        "is_lowactive_period": "0",
        "follow_user_num": 514,
        "onehot_feat4": "3",
    }
    assert second["onehot_feat4"] is None


def test_histories_become_ordered_events_of_unknown_outcome(tmp_path):
    ids = pa.list_(pa.int64())
    histories = pa.table(
        {
            "user_id": [7, 8],
            "watch_seq": pa.array([[1, 2, 1], [5]], ids),
            "like_seq": pa.array([[9, 2, 4], []], ids),
            "long_watch_seq": pa.array([[4, 3, 2], []], ids),
        }
    )
    pq.write_table(histories, tmp_path / "histories.parquet")
    (tmp_path / "log_standard_pure.csv").write_text(HEADER + STANDARD)
    log = open_log(DataSettings(source="kuairand", path=str(tmp_path)), 0)
    events = accepted(log)
    past = events.filter(pc.is_null(events["event_time"]))
    mine = past.filter(pc.equal(past["user_id"], "7")).select(
        ["item_id", "sequence", "long_view", "liked", "watch_ms", "clicked", "is_impression"]
    )
    assert [tuple(row.values()) for row in mine.to_pylist()] == [
        ("9", 0, None, True, None, None, True),  # liked before the window
        ("4", 1, True, True, None, None, True),  # long-viewed before the window
        ("3", 2, True, False, None, None, True),
        ("1", 3, False, False, None, None, True),  # the window
        ("2", 4, True, True, None, None, True),
        ("1", 5, False, False, None, None, True),
    ]
    assert past.num_rows == 7
    assert events.num_rows == 8


def test_real_log_has_its_stated_rows(real_data):
    log = open_log(DataSettings(source="kuairand", path=str(real_data / "kuairand-pure")), 0)
    events = accepted(log)
    timed = events.filter(pc.is_valid(events["event_time"]))
    assert timed.num_rows == 166_932
    test = timed.filter(pc.greater_equal(timed["split_date"], "20220501"))
    assert test.num_rows == 75_127
    windows = pq.read_table(real_data / "kuairand-pure" / "histories.parquet")["watch_seq"]
    assert events.num_rows - timed.num_rows > pc.sum(pc.list_value_length(windows)).as_py()
    assert (log.items.num_rows, log.users.num_rows) == (7_583, 27_285)
    assert validate_items(log.items).reasons == validate_users(log.users).reasons == {}
