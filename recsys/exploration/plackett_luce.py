"""Plackett-Luce orders: every place is drawn by the softmax over what is left, exactly known.

Scores plus Gumbel noise, sorted, are such an order (Gumbel top-k). NumPy only.

References:
    Plackett 1975, The Analysis of Permutations; Luce 1959, Individual Choice Behavior.
    Yellott 1977, The relationship between Luce's choice axiom, Thurstone's theory of comparative
    judgment, and the double exponential distribution.
"""

import numpy as np


def plackett_luce_order(
    score: np.ndarray, temperature: float, *, rng: np.random.Generator
) -> np.ndarray:
    """Draw an order of all candidates: float [C] -> int64 [C], best first.

    Args:
        score: The higher, the sooner.
        temperature: In units of the score, above 0: near 0 the order is that of the scores, when
            it is far above their differences any order is as likely as another.
        rng: Of the noise.
    """
    return np.argsort(-(_logits(score, temperature) + rng.gumbel(size=len(score))), kind="stable")


def plackett_luce_propensities(
    score: np.ndarray, temperature: float, order: np.ndarray
) -> np.ndarray:
    """Return how probable each place's candidate was, given those before it: float64 [C].

    exp(s_j / temperature) over the sum of the same of candidate j and all behind it.

    Args:
        score, temperature: As for `plackett_luce_order`.
        order: int [C], all candidates, from the first place on.
    """
    logits = _logits(score, temperature)[order]
    left = np.logaddexp.accumulate(logits[::-1])[::-1]
    return np.exp(logits - left)


class PlackettLuceDraws:
    """Draws one place after the other, where what is allowed and competes follows those before.

    Each draw has its own noise: with that of a whole order, what was not allowed before would come
    too often, since it never lost to what was taken.

    Args:
        temperature: As for `plackett_luce_order`.
        rng: Of the draws.
    """

    def __init__(self, temperature: float, rng: np.random.Generator) -> None:
        self._temperature, self._rng = temperature, rng
        self.propensity: list[float] = []
        """Of each draw, given those before."""
        self.score: list[float] = []
        """What each drawn candidate competed with."""

    def __call__(self, competing: np.ndarray, allowed: np.ndarray) -> int:
        """Draw one of the candidates that are allowed: float [C], bool [C] -> position."""
        logits = _logits(np.where(allowed, competing, -np.inf), self._temperature)
        weights = np.exp(logits - logits.max())
        up_to = np.cumsum(weights)
        # Below the sum even after rounding; the first sum above it is of one that has a weight.
        drawn = min(self._rng.random() * up_to[-1], np.nextafter(up_to[-1], 0))
        position = int(np.searchsorted(up_to, drawn, side="right"))
        self.propensity.append(float(weights[position] / up_to[-1]))
        self.score.append(float(competing[position]))
        return position


def _logits(score: np.ndarray, temperature: float) -> np.ndarray:
    return np.asarray(score, np.float64) / temperature
