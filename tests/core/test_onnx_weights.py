import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from recsys.core.onnx_session import load_session
from recsys.core.onnx_weights import LEAST_BYTES, write_apart

NUM_ROWS, WIDTH = 1000, 32


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(size=(NUM_ROWS, WIDTH)).astype(np.float32)


@pytest.fixture
def graph(table, tmp_path):
    """Rows of a large table, plus a small constant."""
    shift = np.arange(WIDTH, dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "rows"], ["found"]),
        helper.make_node("Add", ["found", "shift"], ["shifted"]),
    ]
    content = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("shifted", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(shift, "shift")],
    )
    path = tmp_path / "lookup.onnx"
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, path)
    return path


def test_graph_with_its_weights_apart_computes_the_same(graph, table, tmp_path):
    target = tmp_path / "apart" / "renamed.onnx"
    target.parent.mkdir()
    assert write_apart(graph, target) == [target, target.with_name("renamed.onnx.data")]
    found = load_session(target, num_threads=1).run(None, {"rows": np.array([999, 0])})[0]
    np.testing.assert_array_equal(found, table[[999, 0]] + np.arange(WIDTH, dtype=np.float32))
    assert target.stat().st_size < LEAST_BYTES
    assert target.with_name("renamed.onnx.data").stat().st_size == table.nbytes


def test_graph_may_move_together_with_its_weights(graph, table, tmp_path):
    (tmp_path / "apart").mkdir()
    write_apart(graph, tmp_path / "apart" / "g.onnx")
    (tmp_path / "apart").rename(tmp_path / "elsewhere")
    session = load_session(tmp_path / "elsewhere" / "g.onnx", num_threads=1)
    assert session.run(None, {"rows": np.array([7])})[0][0, 0] == table[7, 0]


def test_written_twice_it_has_the_same_bytes(graph, tmp_path):
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths = write_apart(graph, tmp_path / name / "g.onnx")
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_small_weights_stay_in_the_graph(tmp_path, graph):
    model = onnx.load(graph)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.zeros((2, WIDTH), np.float32), "table")
    )
    onnx.save_model(model, graph)
    assert write_apart(graph, tmp_path / "g.onnx") == [tmp_path / "g.onnx"]
