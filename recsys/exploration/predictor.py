"""The neural process as it is served: ONNX Runtime and NumPy, no training library."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.core.onnx_session import load_session
from recsys.exploration.calibration import Spread
from recsys.exploration.thompson import expected_seconds
from recsys.ranking.spec import FeatureSpec

GRAPH, SPREAD, SPEC = "neural_process.onnx", "spread.json", "features.json"
OUTPUT = "watch_time"


@dataclass(frozen=True)
class Prediction:
    """What is said of Q requests of C candidates, float64 [Q, C] each.

    Args:
        mean: Of log(1 + watch seconds).
        deviation: Of the same, calibrated: what `thompson_scores` takes.
        expected_seconds: Mean of the log-normal.
        low_seconds, high_seconds: Between which 80 % of the watches lie.
        completion_logit: Of the probability of completion.
    """

    mean: np.ndarray
    deviation: np.ndarray
    expected_seconds: np.ndarray
    low_seconds: np.ndarray
    high_seconds: np.ndarray
    completion_logit: np.ndarray


class Predictor:
    """Predicts watch times from contexts.

    Args:
        graph: The exported graph; it must have been verified, since parsing trusts it.
        spec: Of the ranking net that it was trained beside.
        spread: Calibration of the deviations.
        num_threads: Threads of one call.
    """

    def __init__(
        self, graph: Path, spec: FeatureSpec, spread: Spread, *, num_threads: int = 1
    ) -> None:
        self._session = load_session(graph, num_threads=num_threads)
        self._input_names = tuple(value.name for value in self._session.get_inputs())
        self.spec, self.spread = spec, spread

    @classmethod
    def load(cls, directory: Path) -> "Predictor":
        """Load the graph and what describes it from one directory."""
        spec = FeatureSpec.load(directory / SPEC)
        return cls(directory / GRAPH, spec, Spread.load(directory / SPREAD))

    def predict(self, inputs: Mapping[str, np.ndarray]) -> Prediction:
        """Predict.

        Args:
            inputs: As `recsys.exploration.features` gives them.
        """
        feed = {name: inputs[name] for name in self._input_names}
        raw = self._session.run([OUTPUT], feed)[0].astype(np.float64)
        mean, deviation, logit = np.moveaxis(raw, -1, 0)
        size = inputs["context_known"].sum(axis=1).astype(np.int64)[:, None]  # [Q, 1]
        calibrated = self.spread.deviations(deviation, size)
        low, high = self.spread.interval(mean, deviation, size)
        return Prediction(
            mean=mean,
            deviation=calibrated,
            expected_seconds=expected_seconds(mean, calibrated),
            low_seconds=low,
            high_seconds=high,
            completion_logit=logit,
        )
