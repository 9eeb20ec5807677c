import numpy as np
import pytest

from recsys.errors import ArtefactError
from recsys.exploration.calibration import Spread
from recsys.exploration.export import export_process
from recsys.exploration.predictor import Predictor
from tests.exploration.small_process import SPEC, make_model, make_rows, outputs

ROWS = make_rows()
CHOSEN = np.arange(40)
SPREAD = Spread((0, 2), (1.0, 3.0), (1.0, 2.0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = make_model(ROWS)
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    inputs = ROWS.inputs(CHOSEN, ROWS.context[CHOSEN])
    export_process(model, inputs, path)
    return model, path, inputs


def test_exported_net_says_what_keras_says(exported):
    model, path, inputs = exported
    raw = outputs(model, inputs)
    found = Predictor(path, SPEC, SPREAD).predict(inputs)
    np.testing.assert_allclose(found.mean, raw[..., 0], atol=1e-4)
    np.testing.assert_allclose(found.completion_logit, raw[..., 2], atol=1e-4)
    factor = np.where(ROWS.context_sizes()[CHOSEN] >= 2, 2.5, 1.0)[:, None]
    np.testing.assert_allclose(found.deviation, raw[..., 1] * factor, rtol=1e-3)


def test_other_numbers_of_watches_are_served(exported):
    model, path, _ = exported
    inputs = ROWS.inputs(CHOSEN, ROWS.context[CHOSEN, :1])
    found = Predictor(path, SPEC, SPREAD).predict(inputs)
    np.testing.assert_allclose(found.mean, outputs(model, inputs)[..., 0], atol=1e-4)


def test_interval_holds_the_median(exported):
    _, path, inputs = exported
    found = Predictor(path, SPEC, SPREAD).predict(inputs)
    median = np.maximum(np.expm1(found.mean), 0)
    assert (found.low_seconds <= median).all()
    assert (found.high_seconds >= median).all()


def test_directory_without_spread_is_refused(exported, tmp_path):
    (tmp_path / "neural_process.onnx").write_bytes(exported[1].read_bytes())
    SPEC.save(tmp_path / "features.json")
    with pytest.raises(ArtefactError, match="spread"):
        Predictor.load(tmp_path)
