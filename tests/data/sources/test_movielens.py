import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.sources import open_log
from recsys.data.validation import validate_events, validate_items, validate_users
from recsys.errors import DataError
from recsys.settings import DataSettings


def open_at(path):
    return open_log(DataSettings(source="movielens", path=str(path)), 0)


def accepted(log):
    validated = [validate_events(table, DataSettings(source="movielens")) for table in log.events()]
    assert not any(batch.reasons for batch in validated)
    return pa.concat_tables(batch.accepted for batch in validated)


def test_published_dat_files_are_read(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3.5::978300760\n")
    movies = "1193::Caf\u00e9: The Movie (1975)::Drama\n661::Short (1996)::Animation|Children's\n"
    (tmp_path / "movies.dat").write_text(movies, encoding="latin-1")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n")
    log = open_at(tmp_path)
    first, second = accepted(log).to_pylist()
    assert (first["user_id"], first["item_id"], first["rating"]) == ("1", "1193", 5.0)
    assert first["event_time"].isoformat() == "2000-12-31T22:12:40+00:00"
    assert first["event_time"] == second["event_time"]
    assert first["sequence"] < second["sequence"]
    assert first["is_impression"] is False
    movie, other = validate_items(log.items).accepted.to_pylist()
    assert movie["title"] == "Caf\u00e9: The Movie (1975)"
    assert movie["release_year"] == 1975
    assert other["topics"] == ["Animation", "Children's"]
    (user,) = validate_users(log.users).accepted.to_pylist()
    assert (user["gender"], user["age_bucket"], user["occupation"]) == ("F", "1", "10")


def test_published_csv_files_are_read(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n")
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n2,"Jumanji, or so (1995)",(no genres listed)\n'
    )
    log = open_at(tmp_path)
    (event,) = accepted(log).to_pylist()
    assert (event["item_id"], event["rating"]) == ("2", 3.5)
    (movie,) = validate_items(log.items).accepted.to_pylist()
    assert (movie["title"], movie["topics"]) == ("Jumanji, or so (1995)", None)


def test_order_of_the_file_goes_on_over_batches(tmp_path):
    lines = "".join(f"1::{movie}::5::978300760\n" for movie in range(60_000))
    (tmp_path / "ratings.dat").write_text(lines)
    (tmp_path / "movies.dat").write_text("1::A (2000)::Drama\n")
    assert accepted(open_at(tmp_path))["sequence"].to_pylist() == list(range(60_000))


def test_sequences_alone_are_read(tmp_path):
    pq.write_table(
        pa.table({"user_id": [1, 1], "pos": [0, 1], "movie_id": [5, 6]}),
        tmp_path / "sequences.parquet",
    )
    log = open_at(tmp_path)
    assert accepted(log).to_pylist() == [
        {"user_id": "1", "item_id": item, "sequence": order, "is_impression": False}
        for order, item in enumerate(["5", "6"])
    ]
    assert log.items is None


def test_malformed_dat_line_is_shown(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::2::3::4\n")
    (tmp_path / "movies.dat").write_text("1::A (2000)\n")
    with pytest.raises(DataError, match=r"movies\.dat.*1::A"):
        open_at(tmp_path)


def test_folder_without_ratings_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"ratings\.dat"):
        open_at(tmp_path)


def test_real_log_has_its_stated_rows(real_data):
    log = open_at(real_data / "ml-1m")
    events = accepted(log)
    assert events.num_rows == 999_611
    assert len(events["user_id"].unique()) == 6_040
    assert len(events["item_id"].unique()) == 3_416
    assert (log.items.num_rows, log.users.num_rows) == (3_883, 6_040)
