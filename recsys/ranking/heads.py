"""The heads of the ranking net: from its raw outputs to seconds and probabilities.

Raw outputs stand side by side, a column a head, but for the curve's M columns:

    expected    z   exp(z), the mean watch time: its loss is logistic, its odds the mean
    median      z   softplus(z), the median watch time, never negative
    completion, click, like    z    sigmoid(z), a probability
    percentile  z   sigmoid(z), the percentile among training rows of like duration (D2Q)
    curve       z_m sigmoid(z_m), the probability of watching longer than t_m

Times are in units of the mean watch time.

References:
    Zhan et al. 2022, Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation.
    Sun et al. 2024, CREAD: A Classification-Restoration Framework with Error Adaptive
    Discretization for Watch Time Prediction in Video Recommender Systems.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import ArtefactError
from recsys.ranking.calibration import duration_buckets
from recsys.settings.ranking import HEADS

LARGEST_LOGIT = 15.0
"""Of the mean's z: a watch of 3 million times the mean."""
CURVE = "curve"
PROBABILITIES = ("completion", "click", "like")
INTERVAL = (0.1, 0.9)
"""Quantiles of the curve that are given beside its median: four watches of five lie between."""
LAST_STRETCH = 2.0
"""The curve is taken to fall to 0 at this many times its last threshold."""
NUM_PERCENTILES = 100


@dataclass(frozen=True)
class Heads:
    """What the raw outputs of one net mean.

    Args:
        names: Of the heads that are on, in the order of their outputs.
        mean_watch_seconds: The unit of the net's watch times.
        thresholds_seconds: float [M], t_m of the curve, ascending; none without a curve.
        group_edges_seconds: float [G - 1], durations that part the groups of the percentile head;
            an edge belongs to the group above it.
        group_seconds: float [G + 1, 101], percentiles of each group's watch time, those of items of
            unknown duration first; none without that head.
    """

    names: tuple[str, ...]
    mean_watch_seconds: float
    thresholds_seconds: tuple[float, ...]
    group_edges_seconds: tuple[float, ...]
    group_seconds: tuple[tuple[float, ...], ...]

    @property
    def num_outputs(self) -> int:
        """Columns of the raw outputs."""
        return sum(self.widths().values())

    def widths(self) -> dict[str, int]:
        """Return how many columns each head has."""
        return {name: len(self.thresholds_seconds) if name == CURVE else 1 for name in self.names}

    def columns(self) -> dict[str, slice]:
        """Return where each head's columns are."""
        ends = np.cumsum(list(self.widths().values())).tolist()
        starts = [0, *ends]
        pairs = zip(starts, ends, strict=False)
        return {name: slice(*pair) for name, pair in zip(self.names, pairs, strict=True)}

    def values(self, raw: np.ndarray, duration_seconds: np.ndarray) -> dict[str, np.ndarray]:
        """Turn raw outputs into what they mean.

        Args:
            raw: float32 [..., num_outputs].
            duration_seconds: float [...], of the items, NaN unknown.

        Returns:
            float32 [...] by name: `expected_seconds`, `median_seconds`, `completion`, and as far as
            the heads are on `click`, `like`, `percentile_seconds`, and from the curve
            `low_seconds`, `high_seconds`, the ends of an 80 % interval.
        """
        column = {name: raw[..., where] for name, where in self.columns().items()}
        expected = np.exp(np.clip(column["expected"][..., 0], -LARGEST_LOGIT, LARGEST_LOGIT))
        values = {"expected_seconds": expected * self.mean_watch_seconds}
        if "median" in column:
            median = np.logaddexp(0, column["median"][..., 0])
            values["median_seconds"] = median * self.mean_watch_seconds
        for name in PROBABILITIES:
            if name in column:
                values[name] = _sigmoid(column[name][..., 0])
        if "percentile" in column:
            share = _sigmoid(column["percentile"][..., 0])
            values["percentile_seconds"] = self._seconds_of(share, duration_seconds)
        if CURVE in column:
            quantiles = curve_quantiles(
                _sigmoid(column[CURVE]), self.thresholds_seconds, (0.5, *INTERVAL)
            )
            median, low, high = np.moveaxis(quantiles, -1, 0)
            # Two estimates of one thing, whose errors are not the same.
            both = (median + values.get("median_seconds", median)) / 2
            values["median_seconds"] = np.clip(both, low, high)
            values |= {"low_seconds": low, "high_seconds": high}
        return {name: value.astype(np.float32, copy=False) for name, value in values.items()}

    def percentiles(self, watch_seconds: np.ndarray, duration_seconds: np.ndarray) -> np.ndarray:
        """Return the label of the percentile head: float32 [R], 0 to 1.

        The middle of the percentiles that a watch time spans: half of all rows of a group may have
        been watched for 0 seconds.

        Args:
            watch_seconds: float [R].
            duration_seconds: float [R], NaN unknown.
        """
        out = np.zeros(len(watch_seconds), np.float32)
        group = duration_buckets(duration_seconds, self.group_edges_seconds)
        for number, seconds in enumerate(self.group_seconds):
            own = group == number
            below, above = (
                np.searchsorted(seconds, watch_seconds[own], side=side)
                for side in ("left", "right")
            )
            out[own] = np.clip((below + above - 1) / 2 / NUM_PERCENTILES, 0, 1)
        return out

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Heads":
        """Read what `save` wrote.

        Raises:
            ArtefactError: The file does not describe heads.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            groups = tuple(tuple(seconds) for seconds in content["group_seconds"])
            names = ("names", "thresholds_seconds", "group_edges_seconds")
            tuples = {name: tuple(content[name]) for name in names} | {"group_seconds": groups}
            heads = cls(**content | tuples)
            _check(heads)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{path}: not a description of heads ({error!r}); train the ranking net anew"
            ) from None
        return heads

    def _seconds_of(self, share: np.ndarray, duration_seconds: np.ndarray) -> np.ndarray:
        """Look percentiles up in their groups, linearly between two: float [...] twice -> [...]."""
        table = np.array(self.group_seconds)
        place = share.astype(np.float64) * NUM_PERCENTILES
        low = np.minimum(place.astype(np.int64), NUM_PERCENTILES - 1)
        group = duration_buckets(duration_seconds, self.group_edges_seconds)
        left, right = table[group, low], table[group, low + 1]
        return left + (place - low) * (right - left)


def fit_heads(
    names: tuple[str, ...],
    watch_seconds: np.ndarray,
    duration_seconds: np.ndarray,
    *,
    num_thresholds: int,
    num_duration_groups: int,
) -> Heads:
    """Take the heads' tables from training rows.

    Args:
        names: Of the heads that are on, in the order of their outputs.
        watch_seconds: float [R].
        duration_seconds: float [R], of the items, NaN unknown.
        num_thresholds: M at most: equal quantiles are one threshold.
        num_duration_groups: G at most, as above.
    """
    mean = float(watch_seconds.mean()) if len(watch_seconds) else 0.0
    thresholds: tuple[float, ...] = ()
    if CURVE in names:
        thresholds = _inner_quantiles(watch_seconds, num_thresholds + 1) or (mean or 1.0,)
    edges: tuple[float, ...] = ()
    groups: tuple[tuple[float, ...], ...] = ()
    if "percentile" in names:
        known = duration_seconds[~np.isnan(duration_seconds)]
        edges = _inner_quantiles(known, num_duration_groups)
        groups = _percentiles_of_groups(watch_seconds, duration_seconds, edges)
    return Heads(names, mean if mean > 0 else 1.0, thresholds, edges, groups)


def curve_quantiles(
    probabilities: np.ndarray, thresholds: tuple[float, ...], quantiles: tuple[float, ...]
) -> np.ndarray:
    """Return where curves of P(T > t) fall to 1 - q, linearly between thresholds.

    A threshold above which more seems likely than above one before it counts as that one.

    Args:
        probabilities: float [..., M].
        thresholds: Ascending, in seconds.
        quantiles: q of each, 0 to 1.

    Returns:
        float64 [..., len(quantiles)], seconds.
    """
    edges = np.array([0.0, *thresholds, LAST_STRETCH * thresholds[-1]])
    falling = np.minimum.accumulate(probabilities.astype(np.float64), axis=-1)
    shape = (*falling.shape[:-1], 1)
    curve = np.concatenate([np.ones(shape), falling, np.zeros(shape)], axis=-1)
    found = []
    for quantile in quantiles:
        before = (curve >= 1 - quantile).sum(axis=-1) - 1
        before = np.minimum(before, len(edges) - 2)
        high = np.take_along_axis(curve, before[..., None], axis=-1)[..., 0]
        low = np.take_along_axis(curve, before[..., None] + 1, axis=-1)[..., 0]
        share = (high - (1 - quantile)) / np.maximum(high - low, 1e-12)
        found.append(edges[before] + share * (edges[before + 1] - edges[before]))
    return np.stack(found, axis=-1)


def _percentiles_of_groups(
    watch_seconds: np.ndarray, duration_seconds: np.ndarray, edges: tuple[float, ...]
) -> tuple[tuple[float, ...], ...]:
    """Return the watch time's percentiles in each group, those of all rows for an empty one."""
    group = duration_buckets(duration_seconds, edges)
    shares = np.linspace(0, 1, NUM_PERCENTILES + 1)
    found = []
    for number in range(len(edges) + 2):
        own = watch_seconds[group == number]
        found.append(tuple(np.quantile(own if len(own) else watch_seconds, shares).tolist()))
    return tuple(found)


def _inner_quantiles(values: np.ndarray, num_parts: int) -> tuple[float, ...]:
    """Return the distinct values that part the values into so many equal shares, 0 left out."""
    if len(values) == 0:
        return ()
    shares = np.arange(1, num_parts) / num_parts
    found = np.unique(np.quantile(values, shares, method="higher"))
    return tuple(found[found > 0].tolist())


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # The even form does not overflow.
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _check(heads: Heads) -> None:
    expected = tuple(name for name in HEADS if name in {"expected", "completion", *heads.names})
    if heads.names != expected:
        raise ValueError(f"expected the heads {expected}, got {heads.names}")
    if not 0 < heads.mean_watch_seconds < np.inf:
        raise ValueError(f"expected a mean watch time above 0, got {heads.mean_watch_seconds}")
    edges, times = heads.group_edges_seconds, np.array(heads.group_seconds, np.float64)
    num_groups = len(edges) + 2 if "percentile" in heads.names else 0
    if times.size != num_groups * (NUM_PERCENTILES + 1) or len(times) != num_groups:
        raise ValueError(f"expected {num_groups} groups of percentiles, got {times.shape}")
    if (CURVE in heads.names) != bool(heads.thresholds_seconds):
        raise ValueError(f"expected thresholds with a curve alone, got {heads.thresholds_seconds}")
    for ascending in (edges, (0.0, *heads.thresholds_seconds)):
        if not (np.diff(ascending) > 0).all():
            raise ValueError(f"expected ascending times above 0, got {ascending}")
    if not (np.diff(times, axis=-1) >= 0).all():
        raise ValueError("expected percentiles that do not descend")
