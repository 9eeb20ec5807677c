"""The trained user tower as an ONNX file, seen to compute what Keras computes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.candidates.model import CandidateModel
from recsys.candidates.query_time import NUM_COLUMNS
from recsys.candidates.vectors import BulkTower, Inputs, tower
from recsys.core.backends import to_numpy
from recsys.core.onnx_export import Input, Output, export_onnx

NUM_CHECKED = 64
"""Users whose vectors are compared."""

COPIED_LAYERS = (
    "encoder",
    "tower",
    "to_user_vector",
    "skip",
    "to_popularity_weights",
    "to_successor_weights",
)
"""All that is no table."""

STAND_IN_CODES = 7
"""Rows of the tables that are exported instead of the real ones."""


def tower_inputs(model: CandidateModel) -> dict[str, Input]:
    """Return the inputs that the tower takes under its settings."""
    settings = model.settings
    inputs = {
        "history": Input("int32", ("batch", "history")),
        "history_length": Input("int32", ("batch",)),
    }
    if settings.searches:
        inputs["search_tokens"] = Input("int32", ("batch", "tokens"))
    if settings.context:
        inputs["context"] = Input("int32", ("batch", len(settings.context)))
    if settings.age:
        inputs["age"] = Input("float32", ("batch",))
    if settings.query_time:
        inputs["query_time"] = Input("float32", ("batch", NUM_COLUMNS))
    if settings.minutes_since_watch:
        inputs["minutes_since_watch"] = Input("float32", ("batch",))
    if settings.forecast_minutes:
        inputs["minutes_since_forecast"] = Input("float32", ("batch",))
    if settings.watch_times:
        inputs["watch_seconds"] = Input("float32", ("batch", "history"))
    return inputs


def export_user_tower(
    model: CandidateModel, examples: Inputs, path: Path, *, factor: float = 1.0
) -> None:
    """Write the tower: `tower_inputs` -> `user_vectors` float32 [batch, interests, D'].

    Args:
        model: Trained.
        examples: The tower's inputs for some users, to compare both on.
        path: File to write.
        factor: Of the vectors.

    Raises:
        ArtefactError: The exported graph gives other vectors than Keras.
    """
    checked = {name: values[:NUM_CHECKED] for name, values in examples.items()}
    unknown = {name: np.zeros_like(values[:1]) for name, values in checked.items()}
    bulk_tower = BulkTower(model)
    twin = _twin(model)
    interests, width = bulk_tower(unknown).shape[1:]
    export_onnx(
        tower(twin, factor),
        tower_inputs(model),
        Output("user_vectors", ("batch", interests, width)),
        path,
        checks=[(inputs, factor * bulk_tower(inputs)) for inputs in (checked, unknown)],
        tables=list(zip(_tables(twin), _tables(model), strict=True)),
    )


def _twin(model: CandidateModel) -> CandidateModel:
    """Return the same net with small random tables."""
    sizes = replace(
        model.sizes,
        num_items=STAND_IN_CODES,
        num_tokens=STAND_IN_CODES,
        context=dict.fromkeys(model.sizes.context, STAND_IN_CODES),
        item_features=None,
    )
    twin = CandidateModel(model.settings, sizes, seed=model.seed)
    for layer in COPIED_LAYERS:
        copies = getattr(twin, layer).variables
        for copy, original in zip(copies, getattr(model, layer).variables, strict=True):
            copy.assign(original.value)
    return twin


def _tables(model: CandidateModel) -> Iterator[np.ndarray]:
    """Yield the tables that the graph looks rows up in; what items share is added up in them."""
    watches = model.watch_table.served_rows()[: model.sizes.num_items]
    yield np.concatenate([np.zeros_like(watches[:1]), watches])
    if model.token_table is not None:
        yield to_numpy(model.token_table.table.value)
    for table in model.context_tables:
        yield to_numpy(table.table.value)
