"""The user tower as it is served: ONNX Runtime, no training library."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.core.onnx_session import load_session
from recsys.settings import CandidateSettings

OUTPUT = "user_vectors"


class UserTower:
    """Maps what is known of users to vectors, by the exported graph of each net.

    Args:
        paths: The graphs, whose vectors stand side by side; they must have been verified, since
            parsing trusts them.
        num_threads: Threads of one call.
    """

    def __init__(self, *paths: Path, num_threads: int = 1) -> None:
        self._sessions = [load_session(path, num_threads=num_threads) for path in paths]
        inputs = [value.name for each in self._sessions for value in each.get_inputs()]
        self.input_names = tuple(dict.fromkeys(inputs))

    def vectors(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute user vectors.

        Args:
            inputs: `history` int32 [B, T], `history_length` int32 [B], and where the net was
                trained with them `search_tokens` int32 [B, S], `context` int32 [B, C], `age`
                float32 [B]; what the graph does not take is ignored.

        Returns:
            float32 [B, interests, D].
        """
        vectors = []
        for session in self._sessions:
            feed = {value.name: inputs[value.name] for value in session.get_inputs()}
            vectors.append(session.run([OUTPUT], feed)[0])
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=2)


def successor_weights(user_vectors: np.ndarray, settings: CandidateSettings) -> np.ndarray:
    """Return the weights of the successors out of served user vectors: [..., D'] -> [..., W]."""
    end = user_vectors.shape[-1] - settings.num_served_popularity_columns
    return user_vectors[..., end - settings.num_successor_columns : end]
