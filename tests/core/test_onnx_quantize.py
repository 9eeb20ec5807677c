"""Products in integers: near the float ones, and of each row alone."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from recsys.core.backends import to_numpy
from recsys.core.layers.tower import Tower
from recsys.core.onnx_export import Input, Output, export_onnx
from recsys.core.onnx_quantize import quantize_products
from recsys.core.onnx_session import load_session
from recsys.errors import ArtefactError

WIDTH, NUM_OUTPUTS = 64, 3


class Net:
    """Many rows through two large products and a small one, one user row through a large one."""

    def __init__(self, width=WIDTH):
        self.user, self.item = Tower((width,), 0.0, seed=1), Tower((width, width), 0.0, seed=2)
        self.outputs = Tower((NUM_OUTPUTS,), 0.0, seed=3)
        for tower in (self.user, self.item, self.outputs):
            tower.build((None, width))
            for step in tower.steps:
                step.dense.bias.assign(np.linspace(-0.5, 0.5, step.width))

    def __call__(self, batch):
        return self.outputs(self.item(batch["items"]) + self.user(batch["user"])[:, None])


def feed(num_items, width=WIDTH, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "user": rng.normal(size=(2, width)).astype(np.float32),
        "items": rng.normal(size=(2, num_items, width)).astype(np.float32),
    }


def export(path, width=WIDTH):
    net = Net(width)
    inputs = {
        "user": Input("float32", ("batch", width)),
        "items": Input("float32", ("batch", "items", width)),
    }
    checks = [(each, to_numpy(net(each))) for each in (feed(1, width), feed(3, width))]
    export_onnx(net, inputs, Output("scores", ("batch", "items", NUM_OUTPUTS)), path, checks=checks)
    return path


def kinds_run(path, inputs, scratch):
    """Return the kinds of the nodes that ONNX Runtime runs, which are not those of the file."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(scratch / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, inputs)
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]


def run(path, inputs):
    return load_session(path, num_threads=1).run(["scores"], inputs)[0]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("graphs")
    float32 = export(directory / "float32.onnx")
    examples = [feed(1, seed=seed) for seed in range(40)]
    number = quantize_products(float32, directory / "int8.onnx", examples, feed(2))
    return float32, directory / "int8.onnx", number


def test_only_large_products_over_the_open_axis_are_taken_in_integers(graphs):
    _, int8, number = graphs
    assert number == 2
    kinds = [node.op_type for node in onnx.load(int8).graph.node]
    weights = [value for value in onnx.load(int8).graph.initializer if value.data_type == 3]
    assert kinds.count("Gemm") == 4  # products with what is added to them
    assert sum(tuple(value.dims) == (WIDTH, WIDTH) for value in weights) == 2


def test_outputs_stay_near_those_of_floats(graphs):
    inputs = feed(50, seed=99)
    float32, int8 = (run(graph, inputs) for graph in graphs[:2])
    assert 0 < (int8 - float32).std() < 0.05 * float32.std()


def test_row_does_not_depend_on_the_rows_beside_it(graphs):
    together = feed(50, seed=98)
    extreme = {**together, "items": together["items"].copy()}
    extreme["items"][:, 1:] *= 100
    alone = {**together, "items": together["items"][:, :1]}
    first = run(graphs[1], together)[:, 0]
    np.testing.assert_array_equal(first, run(graphs[1], extreme)[:, 0])
    np.testing.assert_array_equal(first, run(graphs[1], alone)[:, 0])


def test_quantizing_twice_gives_the_same_bytes(graphs, tmp_path):
    examples = [feed(1, seed=seed) for seed in range(40)]
    quantize_products(graphs[0], tmp_path / "again.onnx", examples, feed(2))
    assert (tmp_path / "again.onnx").read_bytes() == graphs[1].read_bytes()


def test_net_without_large_products_is_refused(tmp_path):
    small = export(tmp_path / "small.onnx", width=8)
    with pytest.raises(ArtefactError, match="precision = 'float32'"):
        quantize_products(small, tmp_path / "int8.onnx", [feed(1, 8)], feed(2, 8))


def test_large_products_are_run_in_integers(graphs, tmp_path):
    # With a bias other than 0, as after any training, they are no longer products of their own.
    kinds = kinds_run(graphs[1], feed(50), tmp_path)
    assert kinds.count("QGemm") + kinds.count("QLinearMatMul") == 2
    assert sum("Gemm" in kind or "MatMul" in kind for kind in kinds) == 4
