"""ONNX export: equal outputs, equal bytes, open axes, and refusal of what went wrong."""

import numpy as np
import onnx
import onnxruntime
import pytest
from keras import ops

from recsys.core.backends import to_numpy
from recsys.core.layers.embedding import Embedding
from recsys.core.layers.tower import Tower
from recsys.core.onnx_export import Input, Output, export_onnx
from recsys.errors import ArtefactError

INPUTS = {"codes": Input("int32", ("batch", "length")), "bias": Input("float32", ("batch", 1))}


class Net:
    def __init__(self, num_codes=9):
        self.table, self.tower = Embedding(num_codes, 4, seed=1), Tower((5, 3), 0.1, seed=2)
        self.table.build(None)

    def __call__(self, batch):
        return self.tower(ops.mean(self.table(batch["codes"]), axis=1)) + batch["bias"]


def make_inputs(rows, length):
    rng = np.random.default_rng(rows)
    codes = rng.integers(0, 9, (rows, length)).astype(np.int32)
    return {"codes": codes, "bias": rng.normal(size=(rows, 1)).astype(np.float32)}


def export(net, path, **changes):
    cases = [make_inputs(4, 2), make_inputs(1, 7)]
    arguments = {
        "function": net,
        "inputs": INPUTS,
        "output": Output("scores", ("batch", 3)),
        "path": path,
        "checks": [(inputs, to_numpy(net(inputs))) for inputs in cases],
    }
    export_onnx(**(arguments | changes))


def run(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["scores"], inputs)[0]


def test_export_computes_the_same_for_other_sizes(tmp_path):
    net = Net()
    export(net, tmp_path / "net.onnx")
    inputs = make_inputs(6, 5)
    found = run(tmp_path / "net.onnx", inputs)
    np.testing.assert_allclose(found, to_numpy(net(inputs)), atol=1e-5)


def test_export_twice_gives_the_same_bytes(tmp_path):
    for name in "ab":
        export(Net(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_export_names_inputs_axes_and_output(tmp_path):
    export(Net(), tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes == {"codes": ["batch", "length"], "bias": ["batch", 1], "scores": ["batch", 3]}


def test_export_replaces_a_stand_in_by_the_table(tmp_path):
    small, full = Net(), Net(1000)
    for copy, original in zip(small.tower.variables, full.tower.variables, strict=True):
        copy.assign(original.value)
    tables = [(to_numpy(small.table.table.value), to_numpy(full.table.table.value))]
    inputs = make_inputs(3, 4)
    inputs["codes"] += 900
    checks = [(inputs, to_numpy(full(inputs)))]
    export(small, tmp_path / "net.onnx", tables=tables, checks=checks)
    np.testing.assert_allclose(run(tmp_path / "net.onnx", inputs), checks[0][1], atol=1e-5)


def test_export_refuses_a_stand_in_that_is_not_there(tmp_path):
    table = np.ones((9, 4), np.float32)
    with pytest.raises(ArtefactError, match="no constant equal to the stand-in"):
        export(Net(), tmp_path / "net.onnx", tables=[(table, table)])


def test_export_refuses_outputs_that_differ(tmp_path):
    inputs = make_inputs(2, 2)
    wrong = [(inputs, to_numpy(Net()(inputs)) + 2e-4)]
    with pytest.raises(ArtefactError, match="differs by 0.0002"):
        export(Net(), tmp_path / "net.onnx", checks=wrong)


def test_export_refuses_outputs_that_are_no_numbers(tmp_path):
    inputs = make_inputs(2, 2)
    wrong = [(inputs, np.full((2, 3), np.nan, np.float32))]
    with pytest.raises(ArtefactError, match="differs by nan"):
        export(Net(), tmp_path / "net.onnx", checks=wrong)


def test_export_refuses_operators_that_onnx_lacks(tmp_path):
    def unsupported(batch):
        return ops.expm1(batch["bias"]) + ops.zeros((1, 3))

    with pytest.raises(ArtefactError, match="cannot load the exported graph"):
        export(unsupported, tmp_path / "net.onnx", inputs={"bias": INPUTS["bias"]})
