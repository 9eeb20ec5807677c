import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.sources import open_log
from recsys.data.validation import validate_events
from recsys.errors import DataError
from recsys.settings import DataSettings


def accepted(path, **options):
    settings = DataSettings(source="sequences", path=str(path), options=options)
    validated = [validate_events(table, settings) for table in open_log(settings, 0).events()]
    assert not any(batch.reasons for batch in validated)
    return pa.concat_tables(batch.accepted for batch in validated)


def test_csv_keeps_ids_as_written(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,pos\n007,a,0\n7,b,1\n")
    assert accepted(tmp_path / "log.csv").to_pylist() == [
        {"user_id": "007", "item_id": "a", "sequence": 0, "is_impression": False},
        {"user_id": "7", "item_id": "b", "sequence": 1, "is_impression": False},
    ]


def test_other_column_names_are_mapped(tmp_path):
    pq.write_table(pa.table({"u": [1], "i": [2], "order": [3]}), tmp_path / "log.parquet")
    events = accepted(tmp_path / "log.parquet", user_id="u", item_id="i", position="order")
    assert events["sequence"].to_pylist() == [3]
    assert events["item_id"].to_pylist() == ["2"]


def test_rows_are_the_order_where_there_is_no_position(tmp_path):
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("user_id,item_id\nu,a\nu,b\n")
    assert accepted(tmp_path)["sequence"].to_pylist() == [0, 1, 2, 3]


def test_pairs_of_text_are_read(tmp_path):
    (tmp_path / "log.txt").write_text("1 10\n1 11\n2 10\n")
    events = accepted(tmp_path / "log.txt")
    assert events["user_id"].to_pylist() == ["1", "1", "2"]
    assert events["item_id"].to_pylist() == ["10", "11", "10"]
    assert events["sequence"].to_pylist() == [0, 1, 2]


def test_text_that_is_no_pairs_is_an_error(tmp_path):
    (tmp_path / "log.txt").write_text("1 10\n1 11 12\n")
    with pytest.raises(DataError, match=r"log\.txt.*user item"):
        accepted(tmp_path / "log.txt")


def test_missing_column_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,thing\nu,a\n")
    with pytest.raises(DataError, match=r"log\.csv.*missing \['item_id'\]"):
        accepted(tmp_path / "log.csv")


@pytest.mark.parametrize(("name", "num_rows"), [("b1", 353_962), ("b2", 198_502)])
def test_real_log_has_its_stated_rows(real_data, name, num_rows):
    events = accepted(real_data / "amazon-beauty" / f"{name}_sequences.parquet")
    assert events.num_rows == num_rows
