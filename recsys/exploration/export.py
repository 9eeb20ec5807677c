"""The trained neural process as an ONNX file, seen to compute what Keras computes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.core.backends import compile_call
from recsys.core.onnx_export import Input, Output, export_onnx
from recsys.exploration.neural_process import NUM_OUTPUTS, NeuralProcess
from recsys.exploration.predictor import OUTPUT
from recsys.ranking.spec import model_inputs


def export_process(model: NeuralProcess, examples: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the net: Q requests of C candidates -> mean, deviation, logit: float32 [Q, C, 3].

    Args:
        model: Trained.
        examples: Inputs of some rows, one target each, to compare both on.
        path: File to write.

    Raises:
        ArtefactError: The exported graph gives other outputs than Keras.
    """
    alone = {name: examples[name] for name in model_inputs(examples)}
    call = compile_call(model, lambda batch: model(batch))
    export_onnx(
        lambda batch: model(batch),
        {name: _input(name, values) for name, values in alone.items()},
        Output(OUTPUT, ("batch", "candidates", NUM_OUTPUTS)),
        path,
        checks=[(inputs, call(inputs)) for inputs in (alone, _one_request(alone))],
    )


def _input(name: str, values: np.ndarray) -> Input:
    """Describe an input by its open axes."""
    open_axis = {"target": "candidates", "context": "watches"}.get(name.split("_")[0])
    axes = ("batch",) if open_axis is None else ("batch", open_axis)
    return Input(str(values.dtype), (*axes, *values.shape[len(axes) :]))


def _one_request(alone: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Make the targets candidates of the first row's user, and drop that one's last watch."""
    found = {}
    for name, values in alone.items():
        if name.startswith("target_"):
            found[name] = np.swapaxes(values, 0, 1)
        else:
            found[name] = values[:1, :-1] if name.startswith("context_") else values[:1]
    return found
