"""Keras functions as ONNX files, for serving without a training library.

Goes in: a function in `keras.ops` and the named axes of its inputs. Comes out: a file that ONNX
Runtime was seen to compute the same with. Two exports of one function have the same bytes: names
and order of nodes follow from the graph alone. Needs Keras on TensorFlow.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import tf2onnx
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors

from recsys.core.backends import Batch, Tensor
from recsys.errors import ArtefactError

OPSET = 18
LARGEST_DIFFERENCE = 1e-4
MAX_BYTES = 2**31 - 1
"""A protobuf message cannot be longer."""

LOAD_ERRORS = (
    onnx_errors.Fail,
    onnx_errors.InvalidArgument,
    onnx_errors.InvalidGraph,
    onnx_errors.InvalidProtobuf,
    onnx_errors.NotImplemented,
    onnx_errors.RuntimeException,
)
"""What ONNX Runtime raises for a graph that it cannot run: a family without a base."""

ArrayBatch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Input:
    """One input of an exported function.

    Args:
        dtype: Of the tensor: `int32`, `float32`.
        axes: A name for an axis whose length is open, or its length.
    """

    dtype: str
    axes: tuple[str | int, ...]


@dataclass(frozen=True)
class Output:
    """The output of an exported function: its name and axes, as in `Input`."""

    name: str
    axes: tuple[str | int, ...]


def export_onnx(
    function: Callable[[Batch], Tensor],
    inputs: Mapping[str, Input],
    output: Output,
    path: Path,
    *,
    checks: Sequence[tuple[ArrayBatch, np.ndarray]],
    tables: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> None:
    """Write a function as an ONNX file, and refuse it unless it computes the same.

    Args:
        function: Tensors by input name -> one tensor.
        inputs: By name.
        output: What the function returns.
        path: File to write.
        checks: Inputs and the expected output; they should differ in every open axis.
        tables: Pairs (stand-in, table): a constant equal to the stand-in is replaced by the
            table, since to export a big table takes minutes and many times its memory.

    Raises:
        ArtefactError: The exported graph cannot be loaded, or gives other outputs.
    """
    model = _convert(function, inputs, output)
    for stand_in, table in tables:
        _replace_constant(model.graph, stand_in, table)
    model = _canonical(model)
    _name_axes(model.graph.input, {name: value.axes for name, value in inputs.items()})
    _name_axes(model.graph.output, {output.name: output.axes})
    if model.ByteSize() > MAX_BYTES:
        raise ArtefactError(
            f"{path}: the graph has {model.ByteSize():,} bytes, ONNX holds {MAX_BYTES:,} in one "
            f"file; lower the embedding width or the number of items"
        )
    path.write_bytes(model.SerializeToString(deterministic=True))
    _check(path, output.name, checks)


def _convert(
    function: Callable[[Batch], Tensor], inputs: Mapping[str, Input], output: Output
) -> onnx.ModelProto:
    if keras.backend.backend() != "tensorflow":
        raise ArtefactError(
            f"ONNX files are exported from Keras on TensorFlow, this is "
            f"{keras.backend.backend()}: set KERAS_BACKEND=tensorflow"
        )
    import tensorflow as tf

    signature = [
        tf.TensorSpec(
            [None if isinstance(axis, str) else axis for axis in spec.axes], spec.dtype, name
        )
        for name, spec in inputs.items()
    ]

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def traced(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        return {output.name: function(dict(zip(inputs, tensors, strict=True)))}

    with warnings.catch_warnings():
        # tf2onnx uses names that NumPy and TensorFlow are about to drop.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        model, _ = tf2onnx.convert.from_function(traced, signature, opset=OPSET)
    return model


def _replace_constant(graph: onnx.GraphProto, stand_in: np.ndarray, table: np.ndarray) -> None:
    for constant in graph.initializer:
        shape = tuple(constant.dims)
        if shape == stand_in.shape and np.array_equal(numpy_helper.to_array(constant), stand_in):
            constant.CopyFrom(numpy_helper.from_array(table, constant.name))
            return
    raise ArtefactError(
        f"the exported graph has no constant equal to the stand-in of shape {stand_in.shape}: the "
        f"exported function must look its rows up in it"
    )


def _canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Order nodes by a walk from the outputs, and number all names in that order.

    tf2onnx numbers names by a counter of the process, and orders nodes by name.
    """
    graph = model.graph
    nodes = _walk(graph)
    new_names = {value.name: value.name for value in (*graph.input, *graph.output)}
    _rename(nodes, new_names, prefix="t")
    constants = [value for value in graph.initializer if value.name in new_names]
    for constant in constants:
        constant.name = new_names[constant.name]
    constants.sort(key=lambda constant: int(constant.name[1:]))
    new_graph = onnx.helper.make_graph(
        nodes, "recsys", graph.input, graph.output, initializer=constants
    )
    return onnx.helper.make_model(
        new_graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def _walk(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs need, each after what it needs, by order of input."""
    producer = {name: node for node in graph.node for name in node.output}
    ordered: list[onnx.NodeProto] = []
    done: set[str] = set()
    pending = [(value.name, False) for value in reversed(graph.output)]
    while pending:
        name, is_ready = pending.pop()
        if name in done or name not in producer:
            continue
        node = producer[name]
        if is_ready:
            ordered.append(node)
            done.update(node.output)
        else:
            pending.append((name, True))
            pending += [(needed, False) for needed in reversed(_needed(node))]
    return ordered


def _needed(node: onnx.NodeProto) -> list[str]:
    """Return the names that a node reads, those inside its loops and branches included."""
    names = list(node.input)
    for body in _bodies(node):
        own = {name for inner in body.node for name in inner.output}
        own |= {value.name for value in (*body.input, *body.initializer)}
        read = [name for inner in body.node for name in _needed(inner)]
        read += [value.name for value in body.output]
        names += [name for name in dict.fromkeys(read) if name not in own]
    return names


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]


def _rename(nodes: Iterable[onnx.NodeProto], new_names: dict[str, str], *, prefix: str) -> None:
    """Number the names of nodes in place; `new_names` gets those that it has not."""
    for number, node in enumerate(nodes):
        for name in (*_needed(node), *node.output):
            new_names.setdefault(name, f"{prefix}{len(new_names)}" if name else "")
        names_in = [new_names[name] for name in node.input]
        names_out = [new_names[name] for name in node.output]
        node.input[:], node.output[:], node.name = names_in, names_out, f"n{number}"
        for place, body in enumerate(_bodies(node)):
            _rename_body(body, new_names, prefix=f"{node.name}_{place}_")


def _rename_body(body: onnx.GraphProto, outer: Mapping[str, str], *, prefix: str) -> None:
    own = dict(outer)
    values = [*body.input, *body.initializer]
    own |= {value.name: f"{prefix}{number}" for number, value in enumerate(values)}
    _rename(body.node, own, prefix=prefix)
    for value in (*values, *body.output):
        value.name = own[value.name]
    del body.value_info[:]


def _name_axes(
    values: Iterable[onnx.ValueInfoProto], axes: Mapping[str, tuple[str | int, ...]]
) -> None:
    for value in values:
        for dimension, axis in zip(value.type.tensor_type.shape.dim, axes[value.name], strict=True):
            if isinstance(axis, str):
                dimension.dim_param = axis


def _check(path: Path, output: str, checks: Sequence[tuple[ArrayBatch, np.ndarray]]) -> None:
    """Compare ONNX Runtime's outputs; failed operators are found only by loading the file."""
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except LOAD_ERRORS as error:
        raise ArtefactError(
            f"{path}: ONNX Runtime cannot load the exported graph: {error}"
        ) from None
    names = [value.name for value in session.get_inputs()]
    for inputs, expected in checks:
        found = session.run([output], {name: inputs[name] for name in names})[0]
        difference = float(np.max(np.abs(found - expected), initial=0.0))
        if found.shape != expected.shape or not difference <= LARGEST_DIFFERENCE:
            raise ArtefactError(
                f"{path}: the exported graph gives {output} {found.shape} that differs by "
                f"{difference:.2g} from Keras's {expected.shape}; at most {LARGEST_DIFFERENCE:g} "
                f"is allowed"
            )
