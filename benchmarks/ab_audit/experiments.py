"""Experiments whose truth is known: how often an effect is found, covered, and at what variance.

Users have a taste; what they watch in the test and before it follow it. A treatment changes
nothing, or adds a tenth to everything:

    taste ~ Gamma(1.2)      watch = taste + Gamma(0.8)     before = taste + Gamma(0.8)

so that watch and before correlate by exactly 1.2 / 2 = 0.6, both with heavy tails. Visits, for
ratio metrics, follow a third Gamma.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from recsys.experiment.effect import Effect, compare
from recsys.experiment.moments import NUM_COLUMNS, Moments
from recsys.experiment.sequential import always_valid

USERS_PER_ARM = 1000
LOOKS = 20
LIFT = 0.1
CHUNK = 100
ALPHA = 0.05
TASTE, OWN = 1.2, 0.8
ANALYSES = ("mean", "ratio", "mean_cuped", "ratio_cuped")


def audit(num_experiments: int, seed: int) -> dict[str, Any]:
    """Simulate tests without and with an effect, and look at some of them twenty times."""
    rng = np.random.default_rng(seed)
    false_positives, coverage, cut = {}, {}, 0.0
    for analysis in ANALYSES:
        null = _collect(_simulated(analysis, 0.0, num_experiments, rng))
        lifted = _collect(_simulated(analysis, LIFT, num_experiments, rng))
        truth = LIFT * (TASTE + OWN)
        false_positives[analysis] = float((null["p_value"] < ALPHA).mean())
        is_covered = (lifted["low"] <= truth) & (truth <= lifted["high"])
        coverage[analysis] = float(is_covered.mean())
        if analysis == "mean":
            plain_variance = null["difference"].var()
        if analysis == "mean_cuped":
            cut = float(1 - null["difference"].var() / plain_variance)
            foreseen = float(null["variance_cut"].mean())
    peeking = _peeking(num_experiments, rng)
    return {
        "aa_false_positive": _farthest(false_positives, ALPHA),
        "peeking_false_positive": peeking["always_valid"],
        "coverage": _farthest(coverage, 1 - ALPHA),
        "cuped_cut_synthetic": cut,
        "cuped_cut_synthetic_foreseen": foreseen,
        "squared_correlation": (TASTE / (TASTE + OWN)) ** 2,
        "aa_false_positive_by_analysis": false_positives,
        "coverage_by_analysis": coverage,
        "peeking_false_positive_fixed_horizon": peeking["fixed"],
    }


def _farthest(shares: dict[str, float], nominal: float) -> float:
    return max(shares.values(), key=lambda share: abs(share - nominal))


def _simulated(
    analysis: str, lift: float, num_experiments: int, rng: np.random.Generator
) -> Iterator[Effect]:
    for start in range(0, num_experiments, CHUNK):
        number = min(CHUNK, num_experiments - start)
        arms = [_draw(analysis, arm_lift, number, rng) for arm_lift in (lift, 0.0)]
        yield compare(*(moments_of(columns) for columns in arms), alpha=ALPHA)


def _draw(analysis: str, lift: float, number: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the four columns of an arm in many experiments: float64 [E, U, 4]."""
    shape = (number, USERS_PER_ARM)
    taste = rng.standard_gamma(TASTE, shape)
    now, before = taste + rng.standard_gamma(OWN, (2, *shape))
    columns = np.zeros((*shape, NUM_COLUMNS))
    columns[..., 1] = columns[..., 3] = 1
    if analysis.startswith("ratio"):
        columns[..., 1], columns[..., 3] = 1 + rng.standard_gamma(2.0, (2, *shape))
    columns[..., 0] = (1 + lift) * now * columns[..., 1]
    if analysis.endswith("cuped"):
        columns[..., 2] = before * columns[..., 3]
    return columns


def moments_of(columns: np.ndarray) -> Moments:
    """Return the moments of many experiments' arms: float64 [E, U, 4] -> experiments [E]."""
    number = columns.shape[1]
    mean = columns.mean(axis=1)
    centred = columns - mean[:, None]
    covariance = np.einsum("eui,euj->eij", centred, centred, optimize=True) / (number - 1)
    return Moments(np.full(len(columns), float(number)), mean, covariance)


def _collect(effects: Iterator[Effect]) -> dict[str, np.ndarray]:
    kept = ("difference", "low", "high", "p_value", "variance_cut")
    found = [[getattr(effect, name) for name in kept] for effect in effects]
    return {name: np.concatenate([f[k] for f in found]) for k, name in enumerate(kept)}


def _peeking(num_experiments: int, rng: np.random.Generator) -> dict[str, float]:
    """Look at tests without an effect after each twentieth of their users."""
    counts = np.linspace(USERS_PER_ARM / LOOKS, USERS_PER_ARM, LOOKS)
    found = np.zeros(2)
    for start in range(0, num_experiments, CHUNK):
        number = min(CHUNK, num_experiments - start)
        arms = [_running(_draw("mean_cuped", 0.0, number, rng), counts) for _ in range(2)]
        fixed = compare(*arms, alpha=ALPHA)
        valid = always_valid(fixed, 2 * counts, tuned_for=2 * USERS_PER_ARM, alpha=ALPHA)
        found += [(effect.p_value < ALPHA).any(axis=1).sum() for effect in (fixed, valid)]
    return dict(zip(("fixed", "always_valid"), (found / num_experiments).tolist(), strict=True))


def _running(columns: np.ndarray, counts: np.ndarray) -> Moments:
    """Return the moments after each look: experiments [E, LOOKS]."""
    blocks = columns.reshape(len(columns), LOOKS, -1, NUM_COLUMNS)
    sums = blocks.sum(axis=2).cumsum(axis=1)
    products = np.einsum("elui,eluj->elij", blocks, blocks, optimize=True).cumsum(axis=1)
    mean = sums / counts[:, None]
    scatter = products - counts[:, None, None] * mean[..., :, None] * mean[..., None, :]
    number = np.broadcast_to(counts, mean.shape[:-1])
    return Moments(number, mean, scatter / (counts - 1)[:, None, None])
