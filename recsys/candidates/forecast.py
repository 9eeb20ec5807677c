"""What each item will get until the next bundle: the log of its expected share of all watches.

Counts of the last hours say what was popular; a bundle is asked for what will be, soon after it was
made and at its end (`FORECAST_STARTS`). For each of these parts of the horizon, boosted trees learn
from many past moments what came: of every item its counts in windows before the moment, their
shares, ranks and trends, its ages and the time of day; the target is its share of the watches in
the part, under a Poisson likelihood. A few items get most watches, so that what one set of trees
makes of one item matters much: several are averaged.

References:
    Szabo & Huberman 2010, Predicting the Popularity of Online Content (early counts forecast late
    ones, by their logarithms).
    Ke et al. 2017, LightGBM: A Highly Efficient Gradient Boosting Decision Tree.
"""

from dataclasses import dataclass
from itertools import pairwise

import lightgbm
import numpy as np

from recsys.candidates.popularity import MICROSECONDS_PER_MINUTE
from recsys.settings import FORECAST_STARTS

WINDOWS = np.array([1 / 288, 1 / 96, 1 / 48, 1 / 24, 1 / 12, 1 / 8, 1 / 4, 1 / 2, 1, 3])
"""In horizons: of a day, from five minutes to three days."""
RANKED_WINDOWS = (1, 3, 5, 8)
AGE_QUANTILES = (0.0, 0.1, 0.5)
"""An item's ages: since its first watch, and since so much of its watches. A stray early watch
makes old what has only just begun."""
MIN_WATCHES = 3
"""In the widest window; items with fewer are idle, and all forecast alike."""
MOMENTS_PER_HORIZON = 12
MAX_MOMENTS = 150
MAX_ITEMS = 20_000
"""Items of a moment to learn from, those with the most watches."""
SHARE_UNIT = 1e4
SMALLEST_SHARE = 1e-3
"""Of the unit: what no item is forecast less than."""
NUM_TREES = 200
NUM_ENSEMBLES = 4
MIN_ROWS = 200
"""Of a leaf, and to learn from at all."""
PARAMETERS = {
    "objective": "poisson",
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": MIN_ROWS,
    "feature_fraction": 0.5,
    "deterministic": True,
    "num_threads": 1,
    "verbose": -1,
}
MINUTES_PER_DAY = 1440


@dataclass(frozen=True)
class _Part:
    """What was learned of a part of the horizon.

    Args:
        ensembles: Their forecasts are averaged, by their logs.
        idle_share: Mean share of an item that is known but idle.
    """

    ensembles: list[lightgbm.Booster]
    idle_share: float

    def log_shares(self, features: np.ndarray) -> np.ndarray:
        """Return the logs of expected shares: float32 [A, F] -> float64 [A]."""
        return np.mean([_log(trees.predict(features)) for trees in self.ensembles], axis=0)


class WatchForecast:
    """Forecasts the watches of items after any moment, from those before it.

    Args:
        items: int32 [W], rows of the watched items; others than 0 to N - 1 are left out.
        moments: int64 [W], microseconds, when each watch was known.
        num_items: N.
        horizon_minutes: How far ahead; the forecasts change at multiples of this (UTC).
        learned_until: Only watches before this moment are learned from. With less than two
            horizons of them there is nothing to learn, and the forecast is what was watched in
            the last one.
    """

    def __init__(
        self,
        items: np.ndarray,
        moments: np.ndarray,
        *,
        num_items: int,
        horizon_minutes: int,
        learned_until: int,
    ) -> None:
        kept = np.flatnonzero((items >= 0) & (items < num_items))
        kept = kept[np.argsort(moments[kept], kind="stable")]
        self._items, self._moments = items[kept], moments[kept]
        self.num_items = num_items
        self._horizon = horizon_minutes * MICROSECONDS_PER_MINUTE
        self._of_item = np.argsort(self._items, kind="stable")
        self._begin = np.searchsorted(self._items[self._of_item], np.arange(num_items))
        self._parts = self._learn(learned_until)

    def refreshes(self, moments: np.ndarray) -> np.ndarray:
        """Return the last refresh at or before each moment: int64 [...], microseconds."""
        return moments // self._horizon * self._horizon

    def columns(self, refresh: int) -> np.ndarray:
        """Return the logs of the expected shares after a moment: float32 [N, parts]."""
        active, features = self._features(refresh)
        if not self._parts:
            shares = self._shares(refresh - self._horizon, refresh)
            logs = np.repeat(_log(shares)[:, None], len(FORECAST_STARTS), axis=1)
            return logs.astype(np.float32)
        logs = np.tile([_log(part.idle_share) for part in self._parts], (self.num_items, 1))
        for number, part in enumerate(self._parts):
            if len(active):
                logs[active, number] = part.log_shares(features)
        return logs.astype(np.float32)

    def ages(self, moment: int, items: np.ndarray) -> np.ndarray:
        """Return how long ago items had had parts of the watches that they have at a moment.

        Args:
            moment: Microseconds.
            items: int64 [A], rows of items with a watch before it.

        Returns:
            float64 [A, quantiles], in horizons, see `AGE_QUANTILES`.
        """
        number = self._num_before(moment)[items, None] * np.array(AGE_QUANTILES)
        watch = self._of_item[self._begin[items, None] + number.astype(np.int64)]
        return (moment - self._moments[watch]) / self._horizon

    def _learn(self, until: int) -> "list[_Part]":
        """Return what was learned of each part of the horizon; nothing from too little."""
        features, shares, idle_shares = [], [], []
        for moment in self._past_moments(until):
            active, columns = self._features(moment)
            coming = self._coming_shares(moment)
            busiest = np.argsort(-columns[:, len(WINDOWS) - 1], kind="stable")[:MAX_ITEMS]
            features.append(columns[busiest])
            shares.append(coming[active[busiest]])
            is_idle = self._num_before(moment) > 0
            is_idle[active] = False
            idle_shares.append(coming[is_idle].sum(axis=0) / max(is_idle.sum(), 1))
        if sum(map(len, features)) < MIN_ROWS:
            return []
        known, idle_share = np.concatenate(features), np.mean(idle_shares, axis=0)
        return [
            _Part(_fit(known, share), idle.item())
            for share, idle in zip(np.concatenate(shares).T, idle_share, strict=True)
        ]

    def _past_moments(self, until: int) -> list[int]:
        """Return moments whose horizon is over, the newest first, one horizon of watches before."""
        if len(self._moments) == 0:
            return []
        earliest, step = self._moments[0] + self._horizon // 4, self._horizon // MOMENTS_PER_HORIZON
        moments = np.arange(until - self._horizon, earliest, -step)
        return moments[:MAX_MOMENTS].tolist()

    def _features(self, moment: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items that are active before a moment, int64 [A], and float32 [A, F]."""
        end = np.searchsorted(self._moments, moment)
        windows = (WINDOWS * self._horizon).astype(np.int64)
        starts = np.searchsorted(self._moments, moment - windows)
        counts = np.stack(
            [np.bincount(self._items[start:end], minlength=self.num_items) for start in starts],
            axis=1,
        )
        active = np.flatnonzero(counts[:, -1] >= MIN_WATCHES)
        counts = counts[active]
        logs = np.log1p(counts)
        order = np.argsort(-counts[:, RANKED_WINDOWS], axis=0, kind="stable")
        minute_of_day = moment // MICROSECONDS_PER_MINUTE % MINUTES_PER_DAY
        columns = [
            logs,
            logs - np.log1p(counts.sum(axis=0)),
            np.diff(logs, axis=1),
            np.argsort(order, axis=0, kind="stable"),
            self.ages(moment, active),
            np.full((len(active), 1), minute_of_day),
        ]
        return active, np.concatenate(columns, axis=1).astype(np.float32)

    def _num_before(self, moment: int) -> np.ndarray:
        """Return each item's number of watches before a moment: int64 [N]."""
        known = self._items[: np.searchsorted(self._moments, moment)]
        return np.bincount(known, minlength=self.num_items)

    def _coming_shares(self, moment: int) -> np.ndarray:
        """Return each item's share of the watches of every part after a moment: [N, parts]."""
        bounds = moment + (np.array([*FORECAST_STARTS, 1.0]) * self._horizon).astype(np.int64)
        return np.stack([self._shares(*pair) for pair in pairwise(bounds)], axis=1)

    def _shares(self, start: int, end: int) -> np.ndarray:
        """Return each item's share of the watches in a time, in units: float64 [N]."""
        inside = slice(*np.searchsorted(self._moments, [start, end]))
        counts = np.bincount(self._items[inside], minlength=self.num_items)
        return counts * (SHARE_UNIT / max(counts.sum(), 1))


def _fit(features: np.ndarray, shares: np.ndarray) -> list[lightgbm.Booster]:
    training = lightgbm.Dataset(features, shares)
    return [
        lightgbm.train({**PARAMETERS, "seed": seed}, training, NUM_TREES)
        for seed in range(NUM_ENSEMBLES)
    ]


def _log(shares: np.ndarray | float) -> np.ndarray:
    return np.log(np.maximum(shares, SMALLEST_SHARE))
