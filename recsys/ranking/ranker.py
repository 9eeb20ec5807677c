"""The ranking net as it is served: ONNX Runtime and NumPy, no training library."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.core.onnx_session import load_session
from recsys.ranking.calibration import Calibration
from recsys.ranking.heads import Heads
from recsys.ranking.spec import FeatureSpec, duration_seconds

GRAPH, CALIBRATION = "ranker.onnx", "calibration.json"
SPEC, HEADS = "features.json", "heads.json"
OUTPUT = "heads"
ROWS_TOGETHER = 1024
"""Candidates of one run of the net: what it computes on the way then fits the processor's cache."""


class Ranker:
    """Scores candidates from their features.

    Args:
        graph: The exported graph; it must have been verified, since parsing trusts it.
        spec: The inputs that it was trained with.
        heads: What its outputs mean.
        calibration: Of its expected seconds.
        num_threads: Threads of one call.
    """

    def __init__(
        self,
        graph: Path,
        spec: FeatureSpec,
        heads: Heads,
        calibration: Calibration,
        *,
        num_threads: int = 1,
    ) -> None:
        self._session = load_session(graph, num_threads=num_threads)
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self.calibration = calibration
        self.spec, self.heads = spec, heads

    @classmethod
    def load(cls, directory: Path, graph: str = GRAPH) -> "Ranker":
        """Load a graph and what describes it from one directory."""
        spec, heads = FeatureSpec.load(directory / SPEC), Heads.load(directory / HEADS)
        return cls(directory / graph, spec, heads, Calibration.load(directory / CALIBRATION))

    def score(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Score Q requests of C candidates each.

        Args:
            features: As `recsys.ranking.features` gives them.

        Returns:
            What `Heads.values` gives, with calibrated `expected_seconds`: float32 [Q, C] each.
        """
        num_queries, num_candidates = features["candidate_item"].shape
        step = max(1, ROWS_TOGETHER // max(num_candidates, 1))
        feeds = (
            {name: features[name][start : start + step] for name in self.input_names}
            for start in range(0, num_queries, step)
        )
        raw = np.concatenate([self._session.run([OUTPUT], feed)[0] for feed in feeds])
        values = self.heads.values(raw, duration_seconds(features, self.spec))
        values["expected_seconds"] *= self.calibration.factors_of(features)
        return values
