"""What a page obeys beside the scores: caps by channel, fresh items, diversity, boosts.

An answer is cut into windows of a page each. Its places are filled one after the other, each with
the best candidate, or one drawn, of those that are still allowed there:

- at most `max_per_channel` items of a channel in a window; items without a channel are not capped;
- once the places left in a window are as many as the fresh items that it still needs, only fresh
  ones are allowed, where there are any that the cap allows;
- with diversity d, what competes is (1 - d) score - d range max_j cos(item, j), j over the items
  above and range the difference of the highest and the lowest score: MMR with lambda = 1 - d, and
  scores made to lie between 0 and 1. The range only keeps the unit of the scores.

What is allowed, and what competes, follows from the items above alone. So a place drawn by the
softmax over what is allowed has exactly that probability, given the items above. The ranking ends
where a place has nothing allowed: a cap is kept, even if the page is not full.

References:
    Carbonell & Goldstein 1998, The Use of MMR, Diversity-Based Reranking.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recsys.boosts import MILLISECONDS_PER_DAY, Boost, Boosts
from recsys.bundle import Bundle
from recsys.eligibility import Eligibility
from recsys.requests import Request

Choose = Callable[[np.ndarray, np.ndarray], int]
"""Takes what competes float64 [C] and what is allowed bool [C], of which one is; says which."""


@dataclass(frozen=True)
class Limits:
    """What the places of one answer obey, for C candidates.

    Args:
        window: Places of a page.
        channel: int64 [C], numbers from 0, without gaps where they are used; -1 none.
        max_per_channel: None for no cap.
        is_fresh: bool [C].
        min_fresh: Fresh items that a window needs.
        diversity: From 0 to below 1.
        directions: float32 [C, D], of length 1, or 0 for an item without a vector.
    """

    window: int
    channel: np.ndarray
    max_per_channel: int | None
    is_fresh: np.ndarray
    min_fresh: int
    diversity: float
    directions: np.ndarray


def arrange(competing: np.ndarray, limits: Limits, num_items: int, choose: Choose) -> np.ndarray:
    """Fill the places of an answer: float [C] scores -> int64 [K], positions of candidates."""
    places = _Places(np.asarray(competing, np.float64), limits, num_items)
    chosen: list[int] = []
    while len(chosen) < min(num_items, len(competing)):
        allowed = places.allowed(len(chosen))
        if not allowed.any():
            break
        chosen.append(choose(places.competing(), allowed))
        places.take(chosen[-1])
    return np.array(chosen, np.int64)


def best(competing: np.ndarray, allowed: np.ndarray) -> int:
    """Choose the best of what is allowed; of equal ones the first."""
    return int(np.where(allowed, competing, -np.inf).argmax())


class _Places:
    """What was chosen so far, and what that leaves."""

    def __init__(self, scores: np.ndarray, limits: Limits, num_items: int) -> None:
        self._limits, self._num_items = limits, num_items
        self._is_left = np.ones(len(scores), bool)
        # One more for channel -1, which is never full.
        self._in_window = np.zeros(int(limits.channel.max(initial=-1)) + 2, np.int64)
        self._fresh_in_window = 0
        self._scores = (1 - limits.diversity) * scores
        self._competing = self._scores
        self._likeness = np.full(len(scores), -np.inf)
        self._range = float(np.ptp(scores)) if len(scores) else 0.0

    def allowed(self, place: int) -> np.ndarray:
        """Say which candidates may stand at a place: bool [C]."""
        limits = self._limits
        if place % limits.window == 0:
            self._in_window[:] = 0
            self._fresh_in_window = 0
        allowed = self._is_left
        if limits.max_per_channel is not None:
            allowed = allowed & (self._in_window < limits.max_per_channel)[limits.channel]
        start = place - place % limits.window
        places_left = min(start + limits.window, self._num_items) - place
        if limits.min_fresh - self._fresh_in_window >= places_left:
            fresh = allowed & limits.is_fresh
            return fresh if fresh.any() else allowed
        return allowed

    def competing(self) -> np.ndarray:
        """Return what the candidates compete with: float64 [C]."""
        return self._competing

    def take(self, position: int) -> None:
        """Note that a candidate got the place."""
        limits = self._limits
        self._is_left[position] = False
        channel = limits.channel[position]
        if channel >= 0:
            self._in_window[channel] += 1
        self._fresh_in_window += int(limits.is_fresh[position])
        if limits.diversity:
            cosine = limits.directions @ limits.directions[position]
            np.maximum(self._likeness, cosine, out=self._likeness)
            self._competing = self._scores - limits.diversity * self._range * self._likeness


class Arrangement:
    """The arrangement of a bundle, as its settings and each request say.

    Args:
        bundle: A loaded bundle.
        eligibility: Of its items.

    Raises:
        ConfigError: A boost is about a column that the items do not have.
    """

    def __init__(self, bundle: Bundle, eligibility: Eligibility) -> None:
        self._settings = bundle.settings.serving.arrangement
        self._page_size = bundle.settings.serving.default_page_size
        self._bundle, self._eligibility = bundle, eligibility
        self.boosts = Boosts(self._settings.boosts, bundle.catalogue, eligibility)

    def boost(self, request: Request, rows: np.ndarray) -> Boost | None:
        """Return what the rules make of candidates' scores; None without rules."""
        return self.boosts.of(rows, request.now) if self.boosts else None

    def limits(self, request: Request, rows: np.ndarray) -> Limits | None:
        """Return what the places of an answer obey; None if nothing.

        Args:
            request: Asked for `num_items` in pages of `page_size`.
            rows: int32 [C], the candidates.
        """
        settings = self._settings
        max_per_channel = self._max_per_channel(request)
        diversity = request.arrangement.diversity
        diversity = settings.diversity if diversity is None else diversity
        if max_per_channel is None and not settings.min_fresh and not diversity:
            return None
        is_fresh = np.zeros(len(rows), bool)
        if settings.min_fresh:
            max_age_ms = round(settings.fresh_days * MILLISECONDS_PER_DAY)
            is_fresh = self._eligibility.is_younger(rows, max_age_ms, request.now)
        return Limits(
            window=request.page_size or self._page_size,
            channel=_numbered(self._bundle.item_features.channel[rows]),
            max_per_channel=max_per_channel,
            is_fresh=is_fresh,
            min_fresh=settings.min_fresh,
            diversity=diversity,
            directions=directions(self._bundle, rows) if diversity else np.zeros((len(rows), 0)),
        )

    def _max_per_channel(self, request: Request) -> int | None:
        asked = request.arrangement.max_per_channel
        if asked is not None:
            return asked or None
        # Who filters by channel asked for these channels, not for a few items of each.
        return None if request.item_filter.channel_ids else self._settings.max_per_channel


def directions(bundle: Bundle, rows: np.ndarray) -> np.ndarray:
    """Return vectors of items of length 1, 0 for an item that has none: int [n] -> float32 [n, D].

    What stands behind the embedding is no direction: a bias, how often the item was watched lately.
    """
    width = bundle.settings.candidates.embedding_width
    known = rows < len(bundle.item_vectors)
    vectors = bundle.item_vectors[rows[known], :width]
    found = np.zeros((len(rows), vectors.shape[1]), np.float32)
    found[known] = vectors
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _numbered(channel: np.ndarray) -> np.ndarray:
    """Number the channels of candidates anew, from 0 without gaps: int32 [C] -> int64 [C]."""
    distinct, number = np.unique(channel, return_inverse=True)
    return number - int(len(distinct) > 0 and distinct[0] < 0)
