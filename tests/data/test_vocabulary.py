import numpy as np
import pyarrow as pa

from recsys.data.vocabulary import Vocabulary


def counted(ids, counts, **limits):
    return Vocabulary.from_counts(pa.array(ids), pa.array(counts), **{"max_size": 99, **limits})


def test_rows_follow_frequency_then_id():
    vocabulary = counted(["b", "rare", "a", "top"], [5, 1, 5, 9])
    assert vocabulary.ids(np.arange(4)) == ["top", "a", "b", "rare"]


def test_order_of_the_log_changes_nothing():
    first, second = counted(["b", "a"], [5, 5]), counted(["a", "b"], [5, 5])
    assert first.rows(["a", "b"]).tolist() == second.rows(["a", "b"]).tolist()


def test_size_and_count_are_limited():
    vocabulary = counted(["a", "b", "c"], [3, 2, 1], max_size=2, min_count=2)
    assert vocabulary.rows(["a", "b", "c"]).tolist() == [0, 1, -1]
    assert counted(["a", "b"], [3, 2], max_size=1).rows(["b"]).tolist() == [-1]


def test_unknown_and_null_have_code_zero():
    vocabulary = counted(["a"], [1])
    assert vocabulary.codes(pa.chunked_array([["a", None], ["?"]])).tolist() == [1, 0, 0]
    assert vocabulary.codes([None, "a"]).tolist() == [0, 1]


def test_ids_are_text_not_numbers():
    assert counted(["7"], [1]).rows(["7", "007", "7.0", "77"]).tolist() == [0, -1, -1, -1]


def test_bytes_and_text_find_the_same_rows():
    vocabulary = counted(["é", "longer id"], [1, 2])
    assert vocabulary.rows_of_bytes(vocabulary.id_bytes(np.array([1, 0]))).tolist() == [1, 0]
    assert vocabulary.rows(["é"]).tolist() == [1]


def test_empty_vocabulary_knows_nothing():
    vocabulary = counted(pa.array([], pa.string()), pa.array([], pa.int64()))
    assert vocabulary.codes(["a"]).tolist() == [0]
    assert vocabulary.rows_of_bytes(np.array([b"a"])).tolist() == [-1]
    assert vocabulary.num_codes == 1


def test_saved_vocabulary_loads_equal(tmp_path):
    vocabulary = counted(["b", "a", "ü"], [1, 2, 3])
    vocabulary.save(tmp_path)
    assert Vocabulary.load(tmp_path).rows(["ü", "a", "b"]).tolist() == [0, 1, 2]
