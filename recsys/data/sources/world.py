"""The hidden truth of the synthetic log: who likes what when, and what the logging policy does.

Letters: U users, N items, K topics, D width of the vectors, n (user, item, time) triples.

    interest    u(t) = the unit vector between the user's first and last interests, by time
    affinity    a = u(t) . x_i                 of items around the centre of their topic
    click       P(click) = sigmoid(-1.2 + 4 a + 0.5 quality_i + effect[position])
    watch       E[watch | click] = 20 s (duration_i / 60 s)^0.6 exp(a),  Gamma of shape 2
    policy      pi(i | u, t) = 0.2 / available(t) + 0.8 P(topic_i | u, t) w_i(t) / W_topic(t)
                P(topic | u, t) = softmax(3 u(t) . centre)
                w_i(t) = exp(quality_i - age_i(t) / 7 days)

A page is drawn from pi without replacement, so the probability of an item given those above it
is pi(i) / (1 - sum of pi above). As the decay of all weights with time is the same factor, it
cancels: w_i can be taken at the upload, and its running sum over the uploads of a topic gives
exact draws and exact propensities at any moment in O(log N).
"""

from dataclasses import dataclass

import numpy as np

DAY_US = 86_400_000_000
WIDTH = 16
PAGE_SIZE = 8
START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z, when the log begins."""
POSITION_EFFECT = -0.15 * np.arange(PAGE_SIZE)

_DAYS_BEFORE = 30
_EARLY_ITEMS = 30
_EXPLORATION = 0.2
_TOPIC_SHARPNESS = 3.0
_DECAY_US = 7 * DAY_US
_WATCH_SHAPE = 2.0


@dataclass(frozen=True)
class World:
    """Everything that is drawn once.

    Args:
        start_us, end_us: Span of the log.
        topic_centres: float32 [K, D], unit length.
        item_vectors: float32 [N, D], unit length.
        item_topic, item_channel: int64 [N].
        item_quality: float64 [N].
        item_duration_ms, item_upload_us: int64 [N].
        first_interests, last_interests: float32 [U, D], unit length.
        activity: float64 [U], mean 1: how often a user comes, relative to the others.
        user_country, user_gender: int64 [U]; gender -1 is not told.
        birth_year: int64 [U].
    """

    start_us: int
    end_us: int
    topic_centres: np.ndarray
    item_vectors: np.ndarray
    item_topic: np.ndarray
    item_channel: np.ndarray
    item_quality: np.ndarray
    item_duration_ms: np.ndarray
    item_upload_us: np.ndarray
    first_interests: np.ndarray
    last_interests: np.ndarray
    activity: np.ndarray
    user_country: np.ndarray
    user_gender: np.ndarray
    birth_year: np.ndarray

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.first_interests)

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.item_vectors)

    @property
    def num_topics(self) -> int:
        """Number of topics."""
        return len(self.topic_centres)

    def interests(self, users: np.ndarray, time_us: np.ndarray) -> np.ndarray:
        """Return what users like at moments: float32 [n, D], unit length."""
        share = ((time_us - self.start_us) / (self.end_us - self.start_us))[:, None]
        share = share.astype(np.float32)
        return _unit((1 - share) * self.first_interests[users] + share * self.last_interests[users])

    def affinity(self, users: np.ndarray, items: np.ndarray, time_us: np.ndarray) -> np.ndarray:
        """Return how near items are to the interests of users: float32 [n], -1 to 1."""
        return np.einsum("nd,nd->n", self.interests(users, time_us), self.item_vectors[items])

    def click_probability(
        self, users: np.ndarray, items: np.ndarray, positions: np.ndarray, time_us: np.ndarray
    ) -> np.ndarray:
        """Return P(click) of items shown at positions: float64 [n]."""
        affinity = self.affinity(users, items, time_us)
        return self._click_probability(affinity, items, positions)

    def expected_watch_ms(
        self, users: np.ndarray, items: np.ndarray, positions: np.ndarray, time_us: np.ndarray
    ) -> np.ndarray:
        """Return the true expected watch time of an impression: float64 [n]."""
        affinity = self.affinity(users, items, time_us)
        probability = self._click_probability(affinity, items, positions)
        return probability * self._clicked_watch_ms(affinity, items)

    def draw_outcomes(
        self,
        users: np.ndarray,
        items: np.ndarray,
        positions: np.ndarray,
        time_us: np.ndarray,
        *,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw what users do: bool [n] clicked, int64 [n] watch_ms, bool [n] liked."""
        affinity = self.affinity(users, items, time_us)
        clicked = rng.random(len(users)) < self._click_probability(affinity, items, positions)
        watch_ms = self.draw_watch_ms(affinity, items, rng=rng)
        liked = clicked & (rng.random(len(users)) < _sigmoid(3 * affinity - 2))
        return clicked, np.where(clicked, watch_ms, 0), liked

    def draw_watch_ms(
        self, affinity: np.ndarray, items: np.ndarray, *, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw the watch time of clicked items: int64 [n]."""
        noise = rng.standard_gamma(_WATCH_SHAPE, len(items)) / _WATCH_SHAPE
        return np.rint(noise * self._clicked_watch_ms(affinity, items)).astype(np.int64)

    def topic_probabilities(self, users: np.ndarray, time_us: np.ndarray) -> np.ndarray:
        """Return the policy's P(topic | user, time): float32 [n, K]."""
        logits = _TOPIC_SHARPNESS * self.interests(users, time_us) @ self.topic_centres.T
        odds = np.exp(logits)
        return odds / odds.sum(axis=1, keepdims=True)

    def _click_probability(
        self, affinity: np.ndarray, items: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        effects = 0.5 * self.item_quality[items] + POSITION_EFFECT[positions]
        return _sigmoid(-1.2 + 4.0 * affinity + effects)

    def _clicked_watch_ms(self, affinity: np.ndarray, items: np.ndarray) -> np.ndarray:
        minutes = self.item_duration_ms[items] / 60_000
        return 20_000 * minutes**0.6 * np.exp(affinity)


class LoggingPolicy:
    """Draws items by pi, and gives their exact probabilities.

    Args:
        world: Whose items are shown.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._first_us = int(world.item_upload_us.min())
        self._span_us = world.end_us - self._first_us + 1
        self._by_upload = np.argsort(world.item_upload_us, kind="stable")
        self._uploads = world.item_upload_us[self._by_upload]
        # By topic, then upload: the uploads of a topic up to a moment are one stretch.
        order = np.lexsort((world.item_upload_us, world.item_topic))
        self._items = order
        self._keys = self._key(world.item_topic[order], world.item_upload_us[order])
        age_at_end = (world.end_us - world.item_upload_us) / _DECAY_US
        self._weights = np.exp(world.item_quality - age_at_end)
        self._running = np.concatenate([[0.0], np.cumsum(self._weights[order])])
        self._first = np.searchsorted(world.item_topic[order], np.arange(world.num_topics))

    def draw_in_topics(
        self, topics: np.ndarray, time_us: np.ndarray, *, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw an available item of each topic by its weight: int64 [n]."""
        first, end = self._stretch(topics, time_us)
        low, high = self._running[first], self._running[end]
        target = low + rng.random(len(topics)) * (high - low)
        found = np.searchsorted(self._running, target, side="right") - 1
        return self._items[np.clip(found, first, end - 1)]

    def draw(
        self, topic_probabilities: np.ndarray, time_us: np.ndarray, *, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw an item by pi for each row of topic probabilities [n, K]: int64 [n]."""
        topics = draw_rows(topic_probabilities, rng=rng)
        chosen = self.draw_in_topics(topics, time_us, rng=rng)
        anything = self._by_upload[(rng.random(len(chosen)) * self._available(time_us)).astype(int)]
        return np.where(rng.random(len(chosen)) < _EXPLORATION, anything, chosen)

    def probabilities(
        self, topic_probabilities: np.ndarray, items: np.ndarray, time_us: np.ndarray
    ) -> np.ndarray:
        """Return pi(item | user, time), the user given by topic probabilities: float64 [n]."""
        topics = self._world.item_topic[items]
        first, end = self._stretch(topics, time_us)
        share = self._weights[items] / (self._running[end] - self._running[first])
        relevant = topic_probabilities[np.arange(len(items)), topics] * share
        mixed = _EXPLORATION / self._available(time_us) + (1 - _EXPLORATION) * relevant
        return np.where(self._world.item_upload_us[items] <= time_us, mixed, 0.0)

    def draw_pages(
        self, topic_probabilities: np.ndarray, time_us: np.ndarray, *, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw pages without replacement.

        Args:
            topic_probabilities: float32 [R, K].
            time_us: int64 [R].
            rng: Source of randomness.

        Returns:
            int64 [R, PAGE_SIZE] items, and float64 [R, PAGE_SIZE]: the probability of each given
            those above it.
        """
        num_pages = len(time_us)
        items = np.full((num_pages, PAGE_SIZE), -1)
        propensity = np.zeros((num_pages, PAGE_SIZE))
        left = np.ones(num_pages)
        for position in range(PAGE_SIZE):
            redraw = np.arange(num_pages)
            while len(redraw):
                new = self.draw(topic_probabilities[redraw], time_us[redraw], rng=rng)
                taken = (items[redraw, :position] == new[:, None]).any(axis=1)
                items[redraw, position] = new
                redraw = redraw[taken]
            probability = self.probabilities(topic_probabilities, items[:, position], time_us)
            propensity[:, position] = probability / left
            left -= probability
        return items, propensity

    def _key(self, topics: np.ndarray, time_us: np.ndarray) -> np.ndarray:
        return topics * self._span_us + (time_us - self._first_us)

    def _stretch(self, topics: np.ndarray, time_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        end = np.searchsorted(self._keys, self._key(topics, time_us), side="right")
        return self._first[topics], end

    def _available(self, time_us: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._uploads, time_us, side="right")


def make_world(
    *, num_users: int, num_items: int, num_days: int, num_countries: int, seed: int
) -> World:
    """Draw a world.

    Args:
        num_users: U.
        num_items: N, at least 40.
        num_days: Length of the log.
        num_countries: Each has its own leanings, and so have genders.
        seed: The same seed gives the same world.
    """
    rng = np.random.default_rng([seed, 0])
    num_topics = int(np.clip(num_items // 10, 4, 20))
    centres = _unit(rng.standard_normal((num_topics, WIDTH), np.float32))
    end_us = START_US + num_days * DAY_US
    topic = np.arange(num_items) % num_topics
    channels_per_topic = max(1, num_items // (10 * num_topics))
    country = rng.integers(num_countries, size=num_users)
    gender = rng.integers(2, size=num_users)
    leaning = _leanings(num_countries, rng)[country] + 0.7 * _leanings(2, rng)[gender]
    return World(
        start_us=START_US,
        end_us=end_us,
        topic_centres=centres,
        item_vectors=_unit(centres[topic] + 0.15 * _normal(num_items, rng)),
        item_topic=topic,
        item_channel=topic + num_topics * rng.integers(channels_per_topic, size=num_items),
        item_quality=rng.standard_normal(num_items),
        item_duration_ms=_durations(topic, num_topics, rng),
        item_upload_us=_uploads(num_items, end_us, rng),
        first_interests=_interests(centres, leaning, rng),
        last_interests=_interests(centres, leaning, rng),
        activity=rng.standard_gamma(1.0, num_users),
        user_country=country,
        user_gender=np.where(rng.random(num_users) < 0.05, -1, gender),
        birth_year=rng.integers(1955, 2011, size=num_users),
    )


def draw_rows(probabilities: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Draw a column of each row by its probabilities: float [n, K] -> int64 [n]."""
    running = np.cumsum(probabilities, axis=1)
    target = rng.random((len(running), 1)) * running[:, -1:]
    return (running[:, :-1] <= target).sum(axis=1)


def _durations(topic: np.ndarray, num_topics: int, rng: np.random.Generator) -> np.ndarray:
    """Draw 5 s to half an hour; topics differ in their usual length."""
    usual = np.log(60_000) + 0.8 * rng.standard_normal(num_topics)
    durations = np.exp(usual[topic] + 0.5 * rng.standard_normal(len(topic)))
    return np.clip(durations, 5_000, 1_800_000).astype(np.int64)


def _uploads(num_items: int, end_us: int, rng: np.random.Generator) -> np.ndarray:
    """Draw upload times; the first items are early, so that every topic always has some."""
    earliest = START_US - _DAYS_BEFORE * DAY_US
    uploads = rng.integers(earliest, end_us, size=num_items)
    uploads[:_EARLY_ITEMS] = earliest
    return uploads


def _interests(centres: np.ndarray, leaning: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mix two topics, the leanings of the user's group, and a little of their own."""
    num_users = len(leaning)
    favourites = centres[rng.integers(len(centres), size=(num_users, 2))]
    mixed = favourites[:, 0] + 0.6 * favourites[:, 1]
    return _unit(mixed + 0.5 * leaning + 0.1 * _normal(num_users, rng))


def _leanings(num_groups: int, rng: np.random.Generator) -> np.ndarray:
    return _unit(_normal(num_groups, rng))


def _normal(num_rows: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((num_rows, WIDTH), np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
