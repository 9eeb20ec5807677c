"""ONNX graphs whose large weights lie in a file beside them.

ONNX Runtime maps that file: a table of a million items is there in a millisecond in place of half a
second, takes no memory of the process' own, and processes of one machine share it.
"""

from pathlib import Path

import onnx

LEAST_BYTES = 1 << 16
"""Smaller tensors stay in the graph."""


def write_apart(source: Path, target: Path) -> list[Path]:
    """Write a graph anew, its large weights into `NAME.data` beside it.

    Args:
        source: A graph whose weights are all in it.
        target: File to write; its directory must stay together.

    Returns:
        What was written: the graph, and the weights if any are large.
    """
    weights = target.with_name(f"{target.name}.data")
    onnx.save_model(
        onnx.load(source),
        target,
        save_as_external_data=True,
        location=weights.name,
        size_threshold=LEAST_BYTES,
    )
    return [path for path in (target, weights) if path.exists()]
