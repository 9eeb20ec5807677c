"""Exported graphs with their large products in 8-bit integers, several times faster on a CPU.

Scales of the activations are fixed from examples beforehand, so what a graph says of one row does
not depend on the rows beside it, as it would with scales taken at each call. Weights have one scale
a column. Training-time only: ONNX Runtime's own quantizer needs `onnx`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from recsys.errors import ArtefactError

PRODUCTS = ("MatMul", "Gemm")
"""ONNX Runtime turns a product of two dimensions, and what is added to it, into the second."""
MIN_WEIGHTS, MIN_COLUMNS = 4096, 32
"""Of a product, for integers to pay for turning its inputs into them. Few columns are those of
outputs, where there is little to gain and the most to lose."""

Feed = Mapping[str, np.ndarray]


def quantize_products(graph: Path, out: Path, examples: Sequence[Feed], longer: Feed) -> int:
    """Write a graph whose products over an open axis are taken in integers.

    Args:
        graph: Exported, in float32.
        out: File to write.
        examples: Inputs like those to come, to take the ranges of the activations from.
        longer: Inputs as `examples[0]`, with more entries along the axis that is to be fast. A
            product that has as many rows with these is left alone: it is small beside the others.

    Returns:
        How many products are now in integers.

    Raises:
        ArtefactError: There are none.
    """
    with tempfile.TemporaryDirectory() as scratch:
        cleaned = Path(scratch) / "cleaned.onnx"
        # Names all nodes, and folds what the quantizer would not see through.
        quant_pre_process(graph, cleaned, skip_symbolic_shape=True)
        names = _growing_products(onnx.load(cleaned), examples[0], longer)
        if not names:
            raise ArtefactError(
                f"{graph}: expected a product with {MIN_WEIGHTS:,} constant weights and "
                f"{MIN_COLUMNS} columns or more to take in integers, found none; keep "
                f"ranking.precision = 'float32'"
            )
        quantize_static(
            cleaned,
            out,
            _Reader(examples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
    return len(names)


def _growing_products(model: onnx.ModelProto, short: Feed, longer: Feed) -> list[str]:
    """Return the names of the products with many constant weights and more rows if longer."""
    weights = {value.name: tuple(value.dims) for value in model.graph.initializer}
    products = [
        node
        for node in model.graph.node
        if node.op_type in PRODUCTS
        and len(weights.get(node.input[1], ())) == 2
        and np.prod(weights[node.input[1]]) >= MIN_WEIGHTS
        and weights[node.input[1]][1] >= MIN_COLUMNS
    ]
    inputs = list(dict.fromkeys(node.input[0] for node in products))
    before, after = (_num_values(model, inputs, feed) for feed in (short, longer))
    return [node.name for node in products if after[node.input[0]] > before[node.input[0]]]


def _num_values(model: onnx.ModelProto, names: list[str], feed: Feed) -> dict[str, int]:
    """Run a graph and return how many values each of its tensors has."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = session.run(names, _fed(feed, session)) if names else []
    return {name: value.size for name, value in zip(names, values, strict=True)}


def _fed(feed: Feed, session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    return {value.name: feed[value.name] for value in session.get_inputs()}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the examples to the quantizer one by one."""

    def __init__(self, examples: Sequence[Feed]) -> None:
        self._examples = iter(examples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next example, None after the last."""
        example = next(self._examples, None)
        return None if example is None else dict(example)
