"""What candidates are ordered by: a weighted sum of what the heads say, by surface.

Every term is in seconds: an expected second counts 1, and a weight says how many seconds a certain
completion, click or like is worth. `docs/ranking.md` has how to choose.
"""

from collections.abc import Mapping

import numpy as np

from recsys.data.vocabulary import Vocabulary
from recsys.errors import ConfigError
from recsys.ranking.calibration import SURFACE
from recsys.settings import RankingSettings


class Formula:
    """The final score.

    Args:
        settings: With the weights.
        vocabularies: Of the surface, where surfaces have formulas of their own.

    Raises:
        ConfigError: A formula is of a surface that the log does not know.
    """

    def __init__(self, settings: RankingSettings, vocabularies: Mapping[str, Vocabulary]) -> None:
        common = settings.score.weights()
        by_surface = {name: each.weights() for name, each in settings.score_by_surface.items()}
        self.names = list(dict.fromkeys([*common, *(n for w in by_surface.values() for n in w)]))
        self._column: int | None = None
        self._weights = self._row(common)[None]  # [surfaces, names]
        if by_surface:
            self._column = settings.user_categorical.index(SURFACE)
            vocabulary = vocabularies[SURFACE]
            self._weights = np.repeat(self._weights, vocabulary.num_codes, axis=0)
            for name, weights in by_surface.items():
                self._weights[_code(vocabulary, name)] = self._row(weights)

    def scores(self, values: Mapping[str, np.ndarray], user_categorical: np.ndarray) -> np.ndarray:
        """Return the score of each candidate: float32 [Q, C].

        Args:
            values: What the heads say, float32 [Q, C] each.
            user_categorical: int32 [Q, A], codes of the requests.
        """
        of_request = np.zeros(len(user_categorical), np.int64)
        if self._column is not None:
            of_request = user_categorical[:, self._column]
        weights = self._weights[of_request]  # [Q, names]
        terms = [weights[:, [n]] * values[name] for n, name in enumerate(self.names)]
        return np.asarray(np.sum(terms, axis=0), np.float32)

    def _row(self, weights: Mapping[str, float]) -> np.ndarray:
        return np.array([weights.get(name, 0.0) for name in self.names], np.float32)


def _code(vocabulary: Vocabulary, surface: str) -> int:
    code = int(vocabulary.codes([surface])[0])
    if code == 0:
        known = vocabulary.ids(np.arange(vocabulary.num_codes - 1))
        raise ConfigError(
            f"ranking.score_by_surface.{surface}: the log has no such surface; it has {known}"
        )
    return code
