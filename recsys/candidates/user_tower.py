"""The user tower as it is served: ONNX Runtime, no training library."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.core.onnx_session import load_session
from recsys.settings import CandidateSettings

OUTPUT = "user_vectors"


class UserTower:
    """Maps what is known of users to vectors, by the exported graph.

    Args:
        path: The graph; it must have been verified, since parsing trusts it.
        num_threads: Threads of one call.
    """

    def __init__(self, path: Path, *, num_threads: int = 1) -> None:
        self._session = load_session(path, num_threads=num_threads)
        self.input_names = tuple(value.name for value in self._session.get_inputs())

    def vectors(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute user vectors.

        Args:
            inputs: `history` int32 [B, T], `history_length` int32 [B], and where the net was
                trained with them `search_tokens` int32 [B, S], `context` int32 [B, C], `age`
                float32 [B]; what the graph does not take is ignored.

        Returns:
            float32 [B, interests, D].
        """
        feed = {name: inputs[name] for name in self.input_names}
        return self._session.run([OUTPUT], feed)[0]


def successor_weights(user_vectors: np.ndarray, settings: CandidateSettings) -> np.ndarray:
    """Return the weights of the successors out of served user vectors: [..., D'] -> [..., W]."""
    end = user_vectors.shape[-1] - len(settings.popularity_minutes)
    return user_vectors[..., end - len(settings.successor_windows) : end]
