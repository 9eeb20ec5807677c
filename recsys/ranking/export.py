"""The trained ranking net as an ONNX file, seen to compute what Keras computes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.core.backends import compile_call, to_numpy
from recsys.core.onnx_export import Input, Output, export_onnx
from recsys.ranking.ensemble import RankingEnsemble
from recsys.ranking.model import RankingModel
from recsys.ranking.ranker import OUTPUT

NUM_CHECKED = 64
"""Impressions whose outputs are compared, alone and as candidates of one request."""

STAND_IN_CODES = 7
"""Rows of the tables that are exported instead of the real ones."""

USER_INPUTS = ("user_categorical", "user_numeric", "history")
NOT_SERVED = "bias_categorical"


def export_ranker(
    model: RankingModel | RankingEnsemble, examples: Mapping[str, np.ndarray], path: Path
) -> None:
    """Write the net: features of Q requests -> raw outputs of the heads, float32 [Q, C, K].

    What the bias columns do is left out.

    Args:
        model: Trained; of an ensemble, all nets stand in the file and their mean comes out.
        examples: Features of some impressions, [R, ...] with C = 1, to compare both on.
        path: File to write.

    Raises:
        ArtefactError: The exported graph gives other outputs than Keras.
    """
    alone = {name: values[:NUM_CHECKED] for name, values in examples.items() if name != NOT_SERVED}
    call = compile_call(model, lambda batch: model(batch))
    members = model.members if isinstance(model, RankingEnsemble) else [model]
    twins = [_twin(member) for member in members]
    twin = RankingEnsemble(twins) if len(twins) > 1 else twins[0]
    export_onnx(
        lambda batch: twin(batch),
        {name: _input(name, values) for name, values in alone.items()},
        Output(OUTPUT, ("batch", "candidates", model.heads.num_outputs)),
        path,
        checks=[(inputs, call(inputs)) for inputs in (alone, one_request(alone))],
        tables=[
            (to_numpy(copy.tables[name].table.value), to_numpy(table.table.value))
            for copy, member in zip(twins, members, strict=True)
            for name, table in member.tables.items()
        ],
    )


def _input(name: str, values: np.ndarray) -> Input:
    """Describe an input; the user's have no candidate axis."""
    if is_of_user(name):
        return Input(str(values.dtype), ("batch", *values.shape[1:]))
    return Input(str(values.dtype), ("batch", "candidates", *values.shape[2:]))


def one_request(alone: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Make the impressions candidates of the first one's user: [R, 1, ...] -> [1, R, ...]."""
    return {
        name: values[:1] if is_of_user(name) else np.swapaxes(values, 0, 1)
        for name, values in alone.items()
    }


def _twin(model: RankingModel) -> RankingModel:
    """Return the same net with small random tables."""
    sizes = {name: replace(size, num_codes=STAND_IN_CODES) for name, size in model.sizes.items()}
    twin = RankingModel(
        model.settings, model.spec, model.scales, model.heads, sizes, seed=model.seed
    )
    replaced = {id(table.table) for table in model.tables.values()}
    for copy, original in zip(twin.variables, model.variables, strict=True):
        if id(original) not in replaced:
            copy.assign(original.value)
    return twin


def is_of_user(name: str) -> bool:
    """Tell whether an input is of the request, and has no candidate axis."""
    return name in USER_INPUTS or name.startswith("recent_")
