"""The exported tower gives Keras's vectors, through the class that serves it."""

import numpy as np
import pytest

from recsys.candidates.export import export_user_tower
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.user_tower import UserTower
from recsys.candidates.vectors import BulkTower, served_inputs
from recsys.core.training import write_variables
from recsys.data.examples import VALIDATION
from tests.candidates.small_log import NUM_ITEMS, model_of, random_shard, settings_of

EVERY_INPUT = ("history", "history_length", "search_tokens", "context", "age")
CASES = [
    ({"similarity": "cosine"}, EVERY_INPUT),
    ({"similarity": "inner_product"}, EVERY_INPUT),
    (
        {
            "encoder": "gru",
            "similarity": "cosine",
            "query_time": True,
            "minutes_since_watch": True,
            "windows": (),
        },
        (*EVERY_INPUT, "query_time", "minutes_since_watch"),
    ),
    (
        {
            "encoder": "attention",
            "watch_times": True,
            "popularity_minutes": (60, 1440),
            "loss": "sampled_softmax",
        },
        (*EVERY_INPUT, "watch_seconds"),
    ),
    (
        {"successor_windows": (2, 3), "loss": "sampled_softmax"},
        EVERY_INPUT,
    ),
    (
        {
            "shared_table": True,
            "skip": True,
            "popularity_minutes": (60,),
            "forecast_minutes": 1440,
            "loss": "sampled_softmax",
        },
        (*EVERY_INPUT, "minutes_since_forecast"),
    ),
    ({"encoder": "lstm"}, EVERY_INPUT),
    (
        {
            "encoder": "convolution",
            "layers": {"activation": "gaussian", "normalisation": "batch", "residual": "v2"},
        },
        EVERY_INPUT,
    ),
    (
        {
            "encoder": "capsules",
            "similarity": "cosine",
            "skip": True,
            "layers": {"activation": "elu", "normalisation": "layer", "residual": "bottleneck"},
        },
        EVERY_INPUT,
    ),
    ({"context": (), "age": False, "searches": False, "example_age": False}, EVERY_INPUT[:2]),
]


@pytest.mark.parametrize(("changes", "names"), CASES)
def test_exported_tower_equals_keras(tmp_path, changes, names):
    settings = settings_of(**changes)
    model = model_of(settings)
    rng = np.random.default_rng(0)
    trained = [rng.normal(size=variable.shape) for variable in model.trainable_variables]
    write_variables(model.trainable_variables, trained)
    parts = [random_shard(30)]
    labels = join_labels(parts, settings, split=VALIDATION, num_trained=NUM_ITEMS)
    inputs = served_inputs(join_sequences(parts), labels, settings)
    path = tmp_path / "user_tower.onnx"
    export_user_tower(model, inputs, path)
    served = UserTower(path)
    assert set(served.input_names) == set(names)
    expected = BulkTower(model)(inputs)
    vectors = served.vectors(inputs)
    assert vectors.shape == expected.shape
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    alone = {name: values[7:8] for name, values in inputs.items()}
    np.testing.assert_allclose(served.vectors(alone), vectors[7:8], atol=1e-5)
