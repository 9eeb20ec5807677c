"""Multiplicative calibration of expected seconds, fitted on validation rows only.

The factor of a candidate is a common one, times that of the request's surface, times that of the
item's duration bucket; the last two are shrunk towards 1. A surface holds for a whole request and
never changes its order. Durations differ within a request, so their factors do change it, unless
`ranking.calibrate_durations` is off.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from recsys.errors import ArtefactError
from recsys.ranking.spec import DURATION, FeatureSpec

SURFACE = "surface"
PRIOR_IMPRESSIONS = 500.0
"""A surface's or bucket's factor counts 1 as so many impressions more: the sum of 500 watch
times, whose deviation is about twice their mean, is known to about 9 %."""
NUM_BUCKETS = 8
MAX_SWEEPS = 100
"""A handful suffices unless surfaces and durations are nearly the same thing; the products of
their factors are then long settled."""


@dataclass(frozen=True)
class Calibration:
    """Factors on predicted seconds.

    Args:
        common_factor: Of every candidate.
        surface_column: Which column of `user_categorical` holds the surface, None if none.
        surface_factors: By code of the surface; one if the log does not tell surfaces apart.
        duration_column: Which column of `candidate_numeric` holds the duration in seconds.
        duration_edges_seconds: [M], ascending; an edge belongs to the bucket above it.
        duration_factors: [M + 2], of the unknown duration, then of the buckets from the shortest.
    """

    common_factor: float
    surface_column: int | None
    surface_factors: tuple[float, ...]
    duration_column: int
    duration_edges_seconds: tuple[float, ...]
    duration_factors: tuple[float, ...]

    def codes_of(self, features: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return each request's surface, int [Q], and each candidate's bucket, int [Q, C].

        Args:
            features: `user_categorical` int32 [Q, A] and `candidate_numeric` float32 [Q, C, G], as
                `recsys.ranking.features` gives them.
        """
        seconds = features["candidate_numeric"][..., self.duration_column]
        return (
            _surfaces(features["user_categorical"], self.surface_column),
            duration_buckets(seconds, self.duration_edges_seconds),
        )

    def factors_of(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the factor of each candidate: float32 [Q, C].

        Args:
            features: As for `codes_of`.
        """
        surface, bucket = self.codes_of(features)
        of_request = self.common_factor * np.array(self.surface_factors)[surface]
        factors = of_request[:, None] * np.array(self.duration_factors)[bucket]
        return factors.astype(np.float32)

    def scaled(self, factor: float) -> "Calibration":
        """Return the same factors, all times another one."""
        return replace(self, common_factor=factor * self.common_factor)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ArtefactError: The file is no calibration.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = ("surface_factors", "duration_edges_seconds", "duration_factors")
            calibration = cls(**{**content, **{name: tuple(content[name]) for name in names}})
            _check(calibration)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{path}: not a calibration ({error!r}); train the ranking net anew"
            ) from None
        return calibration


def fit_calibration(
    predicted: np.ndarray,
    true: np.ndarray,
    features: Mapping[str, np.ndarray],
    spec: FeatureSpec,
    *,
    calibrate_durations: bool,
) -> Calibration:
    """Fit the factors on R impressions.

    Args:
        predicted, true: float [R], seconds.
        features: As for `Calibration.codes_of`, each impression a request with one candidate.
        spec: Names the columns of the features.
        calibrate_durations: Whether buckets have factors of their own; they are 1 otherwise.
    """
    columns = list(spec.user_categorical)
    surface_column = columns.index(SURFACE) if SURFACE in columns else None
    duration_column = spec.item_numeric.index(DURATION)
    seconds = features["candidate_numeric"][:, 0, duration_column]
    edges = bucket_edges(seconds)
    buckets = duration_buckets(seconds, edges)
    common, of_surface, of_bucket = fit_factors(
        predicted,
        true,
        _surfaces(features["user_categorical"], surface_column),
        buckets if calibrate_durations else np.zeros_like(buckets),
        (spec.user_categorical.get(SURFACE, 1), len(edges) + 2),
    )
    return Calibration(
        common_factor=common,
        surface_column=surface_column,
        surface_factors=tuple(of_surface.tolist()),
        duration_column=duration_column,
        duration_edges_seconds=edges,
        duration_factors=tuple(of_bucket.tolist()),
    )


def fit_factors(
    predicted: np.ndarray,
    true: np.ndarray,
    surface: np.ndarray,
    bucket: np.ndarray,
    shape: tuple[int, int],
) -> tuple[float, np.ndarray, np.ndarray]:
    """Fit a common factor, one for each surface and one for each bucket, by raking.

    With f = sum(true) / sum(predicted), m the prior impressions and t the mean of `true`, each
    surface s and each bucket d in turn gets

        a_s = (sum_s true + m t) / (sum_s f b predicted + m t)
        b_d = (sum_d true + m t) / (sum_d f a predicted + m t)

    until they stay; then f is scaled so that the calibrated sum is the true one. Each step is the
    exact maximum of a concave function (a Poisson likelihood with gamma priors around 1) along
    its axis, so the sweeps converge. Without rows a factor is 1.

    Args:
        predicted, true: float [R], seconds.
        surface: int [R], below S; `bucket`: int [R], below D.
        shape: S and D.

    Returns:
        f, a float64 [S], b float64 [D].
    """
    cells = surface * shape[1] + bucket
    true_sum, predicted_sum = (
        np.bincount(cells, seconds, shape[0] * shape[1]).reshape(shape)
        for seconds in (true, predicted)
    )
    of_surface, of_bucket = np.ones(shape[0]), np.ones(shape[1])
    total = true_sum.sum()
    if total <= 0 or predicted_sum.sum() <= 0:
        return 1.0, of_surface, of_bucket
    common = total / predicted_sum.sum()
    prior = PRIOR_IMPRESSIONS * total / len(true)
    expected = common * predicted_sum
    for _ in range(MAX_SWEEPS):
        before = of_bucket
        of_surface = _shrunken(true_sum.sum(axis=1), expected @ of_bucket, prior)
        of_bucket = _shrunken(true_sum.sum(axis=0), of_surface @ expected, prior)
        if np.allclose(of_bucket, before, rtol=1e-12, atol=0):
            break
    scale = total / (of_surface @ expected @ of_bucket)
    return float(common * scale), of_surface, of_bucket


def bucket_edges(duration_seconds: np.ndarray) -> tuple[float, ...]:
    """Return edges between buckets of about equally many known durations.

    Where durations repeat, quantiles coincide or crowd: an edge that would leave a bucket less than
    half its share is left out.

    Args:
        duration_seconds: float32 [R], NaN unknown.
    """
    known = np.sort(duration_seconds[~np.isnan(duration_seconds)])
    if len(known) == 0:
        return ()
    shares = np.arange(1, NUM_BUCKETS) / NUM_BUCKETS
    least = len(known) / NUM_BUCKETS / 2
    edges, num_below = [], 0
    for edge in np.unique(np.quantile(known, shares, method="higher")).tolist():
        rank = int(np.searchsorted(known, edge))
        if rank - num_below >= least:
            edges.append(edge)
            num_below = rank
    return tuple(edges)


def duration_buckets(duration_seconds: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """Return the bucket of each duration, 0 if unknown: float32 [...], NaN unknown -> int [...]."""
    bucket = 1 + np.searchsorted(np.array(edges), duration_seconds, side="right")
    return np.where(np.isnan(duration_seconds), 0, bucket)


def _surfaces(user_categorical: np.ndarray, column: int | None) -> np.ndarray:
    if column is None:
        return np.zeros(len(user_categorical), np.int64)
    return user_categorical[:, column]


def _shrunken(true: np.ndarray, expected: np.ndarray, prior: float) -> np.ndarray:
    """Return the factors of the levels of one axis from their sums: float64 [L] -> [L]."""
    if np.count_nonzero(expected) < 2:
        # A lone level is all rows: that factor is the common one.
        return np.ones(len(true))
    return (true + prior) / (expected + prior)


def _check(calibration: Calibration) -> None:
    edges, factors = calibration.duration_edges_seconds, calibration.duration_factors
    if len(factors) != len(edges) + 2:
        raise ValueError(f"expected {len(edges) + 2} duration factors, got {len(factors)}")
    if not (np.diff(edges) > 0).all():
        raise ValueError(f"expected ascending edges, got {edges}")
    every = np.array([calibration.common_factor, *calibration.surface_factors, *factors])
    if not (np.isfinite(every) & (every > 0)).all():
        raise ValueError(f"expected positive factors, got {every.tolist()}")
