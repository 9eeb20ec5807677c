import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data import files, schema
from recsys.data.files import find_files, read_files, read_whole
from recsys.data.log import FileProblems
from recsys.errors import DataError


@pytest.fixture
def problems():
    return FileProblems()


def write_parquet(path, values):
    pq.write_table(pa.table({"a": pa.array(values, pa.int64())}), path)


def values_of(paths, problems, **options):
    return [value for table in read_files(paths, problems, **options) for value in table["a"]]


def test_bad_files_are_named_and_the_rest_go_on(tmp_path, problems):
    write_parquet(tmp_path / "1.parquet", [1])
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "2.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.parquet").write_bytes(b"")
    write_parquet(tmp_path / "4.parquet", [])
    write_parquet(tmp_path / "5.parquet", [5])
    found = values_of(find_files(tmp_path), problems)
    assert [value.as_py() for value in found] == [1, 5]
    assert sorted(problems.bad_files) == [str(tmp_path / f"{k}.parquet") for k in (2, 3, 4)]


def test_damage_inside_a_file_is_named(tmp_path, problems):
    path = tmp_path / "1.parquet"
    pq.write_table(pa.table({"a": [str(k) for k in range(5000)]}), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[100:4000] = b"\xff" * 3900
    path.write_bytes(content)
    with pytest.raises(DataError, match="1.parquet"):
        list(read_files([path], problems))
    assert "unreadable" in problems.bad_files[str(path)]


def test_nothing_readable_is_an_error_that_names_the_files(tmp_path, problems):
    (tmp_path / "1.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"1\.parquet: unreadable"):
        list(read_files(find_files(tmp_path), problems))


def test_folder_without_data_is_an_error(tmp_path):
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(DataError, match="found none"):
        find_files(tmp_path)


def test_hidden_files_are_left_out(tmp_path):
    write_parquet(tmp_path / "1.parquet", [1])
    (tmp_path / "_temporary").mkdir()
    write_parquet(tmp_path / "_temporary" / "2.parquet", [2])
    assert find_files(tmp_path) == [tmp_path / "1.parquet"]


def test_csv_without_types_is_text(tmp_path, problems):
    (tmp_path / "1.csv").write_text("a,b\n007,x\n,y\n")
    (table,) = read_files([tmp_path / "1.csv"], problems)
    assert table["a"].to_pylist() == ["007", None]
    assert schema.is_text(table)
    assert schema.file_of(table) == str(tmp_path / "1.csv")


def test_csv_with_types_is_typed(tmp_path, problems):
    (tmp_path / "1.csv").write_text("a,b\n7,x\n")
    (table,) = read_files(
        [tmp_path / "1.csv"], problems, types={"a": pa.int64()}, columns=["a", "missing"]
    )
    assert table.to_pydict() == {"a": [7]}
    assert not schema.is_text(table)


def test_line_with_too_many_fields_is_noted_and_left_out(tmp_path, problems):
    path = tmp_path / "1.csv"
    path.write_text("a,b\n1,2\n3,4,5\n6,7\n")
    assert [value.as_py() for value in values_of([path], problems)] == ["1", "6"]
    assert problems.bad_lines == {(str(path), 3): "3,4,5"}


def test_compressed_tab_separated_file_is_read(tmp_path, problems):
    path = tmp_path / "1.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    assert [value.as_py() for value in values_of([path], problems)] == ["1"]


def test_broken_compression_is_named(tmp_path, problems):
    (tmp_path / "1.csv.gz").write_bytes(gzip.compress(b"a\n" + b"1\n" * 1000)[:-20])
    (tmp_path / "2.csv").write_text("a\n2\n")
    assert [value.as_py() for value in values_of(find_files(tmp_path), problems)][-1] == "2"
    assert list(problems.bad_files) == [str(tmp_path / "1.csv.gz")]


def test_quoted_line_break_stays_in_its_value(tmp_path, problems):
    (tmp_path / "1.csv").write_text('a,b\n"1\n2",x\n')
    assert [value.as_py() for value in values_of([tmp_path / "1.csv"], problems)] == ["1\n2"]


def test_quoted_line_break_at_the_end_of_a_block_stays_too(tmp_path, problems, monkeypatch):
    monkeypatch.setattr(files, "_CSV_BLOCK_BYTES", 64)
    lines = ['"' + "1\n" * length + '",x\n' for length in range(1, 25)]
    (tmp_path / "1.csv").write_text("a,b\n" + "".join(lines))
    found = values_of([tmp_path / "1.csv"], problems)
    assert [value.as_py().count("\n") for value in found] == list(range(1, 25))


def test_hive_folder_becomes_a_column(tmp_path, problems):
    for day in ("20220501", "20220502"):
        (tmp_path / f"split_date={day}").mkdir()
        write_parquet(tmp_path / f"split_date={day}" / "part.parquet", [int(day)])
    table = read_whole(find_files(tmp_path), problems)
    assert table["split_date"].to_pylist() == ["20220501", "20220502"]
    assert table["a"].to_pylist() == [20220501, 20220502]
