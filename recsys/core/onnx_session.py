"""How exported graphs are run: ONNX Runtime on the CPU, without any training library."""

from pathlib import Path

import onnxruntime

from recsys.errors import BundleError


def load_session(graph: Path, *, num_threads: int) -> onnxruntime.InferenceSession:
    """Load a graph.

    Args:
        graph: It must have been verified, since parsing trusts it.
        num_threads: Threads of one call.

    Raises:
        BundleError: ONNX Runtime does not take the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a family of its own, without a base
        raise BundleError(f"{graph}: ONNX Runtime cannot load it: {error}") from None
