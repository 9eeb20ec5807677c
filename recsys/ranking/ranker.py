"""The ranking net as it is served: ONNX Runtime and NumPy, no training library."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.core.onnx_session import load_session
from recsys.ranking.calibration import Calibration
from recsys.ranking.heads import head_values
from recsys.ranking.spec import FeatureSpec

GRAPH, CALIBRATION, SPEC = "ranker.onnx", "calibration.json", "features.json"
OUTPUT = "heads"


class Ranker:
    """Scores candidates from their features.

    Args:
        graph: The exported graph; it must have been verified, since parsing trusts it.
        spec: The inputs that it was trained with.
        calibration: Of its expected seconds.
        num_threads: Threads of one call.
    """

    def __init__(
        self, graph: Path, spec: FeatureSpec, calibration: Calibration, *, num_threads: int = 1
    ) -> None:
        self._session = load_session(graph, num_threads=num_threads)
        self._input_names = tuple(value.name for value in self._session.get_inputs())
        self.calibration = calibration
        self.spec = spec

    @classmethod
    def load(cls, directory: Path) -> "Ranker":
        """Load the graph, its feature description and its calibration from one directory."""
        spec = FeatureSpec.load(directory / SPEC)
        return cls(directory / GRAPH, spec, Calibration.load(directory / CALIBRATION))

    def score(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Score Q requests of C candidates each.

        Args:
            features: As `recsys.ranking.features` gives them.

        Returns:
            `expected_seconds` (calibrated), `median_seconds`, `completion`: float32 [Q, C].
        """
        feed = {name: features[name] for name in self._input_names}
        raw = self._session.run([OUTPUT], feed)[0]
        values = head_values(raw, self.calibration.mean_watch_seconds)
        values["expected_seconds"] *= self.calibration.factors_of(features)
        return values
