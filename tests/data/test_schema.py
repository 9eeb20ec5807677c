import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data import schema
from recsys.errors import DataError


def test_version_survives_a_file(tmp_path):
    table = schema.with_version(pa.table({"user_id": ["7"]}))
    pq.write_table(table, tmp_path / "events.parquet")
    found = pq.read_schema(tmp_path / "events.parquet")
    assert found.metadata[b"recsys_schema_version"] == b"1"
    schema.check_version(found, "events.parquet")


def test_file_without_version_is_accepted():
    schema.check_version(pa.schema([("user_id", pa.string())]), "events.parquet")


def test_unknown_version_is_refused_by_name():
    other = pa.schema([("user_id", pa.string())], metadata={b"recsys_schema_version": b"99"})
    with pytest.raises(DataError, match=r"events\.parquet.*version 99"):
        schema.check_version(other, "events.parquet")


def test_version_keeps_other_metadata():
    table = pa.table({"a": [1]}).replace_schema_metadata({"mine": "kept"})
    assert schema.with_version(table).schema.metadata[b"mine"] == b"kept"


def test_origin_names_the_file_and_drops_foreign_metadata():
    table = pa.table({"a": [1]}).replace_schema_metadata({"pandas": "{}"})
    table = schema.with_origin(table, "log.csv", is_text=True)
    assert schema.file_of(table) == "log.csv"
    assert schema.is_text(table)
    assert b"pandas" not in table.schema.metadata


def test_contract_holds_the_columns_of_the_design():
    assert schema.EVENTS.field("event_time").type == pa.timestamp("us", tz="UTC")
    assert schema.EVENTS.field("watch_ms").type == pa.int64()
    assert schema.EVENTS.field("position").type == pa.int16()
    assert schema.EVENTS.field("propensity").type == pa.float32()
    assert schema.ITEMS.field("topics").type == pa.list_(pa.string())
