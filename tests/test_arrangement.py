"""Places of a page: hand-worked cases, a slow twin, and frequencies of drawn orders."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.arrangement import Limits, arrange, best
from recsys.exploration.plackett_luce import PlackettLuceDraws, plackett_luce_propensities

NEAR, FAR = [1.0, 0.0], [0.0, 1.0]


def limits_of(num_candidates, *, window=10, channel=None, fresh=(), vectors=None, **changes):
    defaults = {"max_per_channel": None, "min_fresh": 0, "diversity": 0.0}
    return Limits(
        window=window,
        channel=np.array([-1] * num_candidates if channel is None else channel),
        is_fresh=np.isin(np.arange(num_candidates), fresh),
        directions=np.array([[0.0]] * num_candidates if vectors is None else vectors, np.float32),
        **{**defaults, **changes},
    )


def greedy(score, limits, num_items=10):
    return arrange(np.array(score, float), limits, num_items, best).tolist()


def test_without_anything_to_obey_it_is_the_order_of_the_scores():
    assert greedy([2, 3, 3, 1], limits_of(4)) == [1, 2, 0, 3]
    assert greedy([2, 3, 3, 1], limits_of(4), num_items=2) == [1, 2]
    assert greedy([], limits_of(0)) == []


def test_cap_holds_in_each_window_and_spares_items_without_a_channel():
    limits = limits_of(7, window=3, channel=[0, 0, 0, 1, -1, -1, -1], max_per_channel=1)
    # 1 and 2 wait for the windows that follow; of channel -1 any number may stand on a page.
    assert greedy([9, 8, 7, 6, 5, 4, 3], limits) == [0, 3, 4, 1, 5, 6, 2]


def test_ranking_ends_where_the_cap_allows_nothing():
    limits = limits_of(5, window=4, channel=[0, 0, 0, 0, 1], max_per_channel=2)
    assert greedy([9, 8, 7, 6, 5], limits) == [0, 1, 4]


def test_fresh_items_take_the_last_places_that_they_need():
    limits = limits_of(8, window=4, fresh=(0, 5, 6, 7), min_fresh=2)
    # 0 is fresh anyway, so one more is enough; on the next page two are.
    assert greedy([9, 8, 7, 6, 5, 4, 3, 2], limits) == [0, 1, 2, 5, 3, 4, 6, 7]


def test_fresh_items_of_a_short_last_page_count_on_its_own_places():
    limits = limits_of(6, window=4, fresh=(5,), min_fresh=1)
    assert greedy([9, 8, 7, 6, 5, 4], limits, num_items=2) == [0, 5]
    assert greedy([9, 8, 7, 6, 5, 4], limits, num_items=5) == [0, 1, 2, 5, 3]


def test_where_fresh_items_are_missing_or_capped_others_stand():
    assert greedy([3, 2, 1], limits_of(3, window=3, fresh=(1,), min_fresh=3)) == [1, 0, 2]
    limits = limits_of(
        4, window=3, channel=[0, 0, 0, 1], max_per_channel=1, fresh=(1, 2), min_fresh=2
    )
    assert greedy([3, 2, 1, 0], limits) == [0, 3]
    assert greedy([0, 2, 1, 3], limits) == [3, 1]


def test_diversity_trades_score_for_unlikeness():
    vectors = [NEAR, NEAR, FAR, FAR]
    score = [10, 9, 8, 0]
    assert greedy(score, limits_of(4, vectors=vectors, diversity=0.0)) == [0, 1, 2, 3]
    # (1 - .3) 9 - .3 * 10 * 1 = 3.3 against .7 * 8 = 5.6.
    assert greedy(score, limits_of(4, vectors=vectors, diversity=0.3)) == [0, 2, 1, 3]
    # .95 * 8 - .05 * 10 * 0 = 7.6 against .95 * 9 - .05 * 10 = 8.05.
    assert greedy(score, limits_of(4, vectors=vectors, diversity=0.05)) == [0, 1, 2, 3]


def test_items_without_a_vector_are_like_nothing():
    assert greedy([10, 9, 8], limits_of(3, vectors=[NEAR, NEAR, [0.0, 0.0]], diversity=0.4)) == [
        0,
        2,
        1,
    ]


def slowly(score, limits, num_items):
    """The rules once more, in plain Python, from scratch at every place."""
    chosen = []
    spread = max(score) - min(score) if score else 0.0
    while len(chosen) < min(num_items, len(score)):
        start = len(chosen) // limits.window * limits.window
        page = chosen[start:]
        allowed = []
        for item in range(len(score)):
            same = sum(limits.channel[item] == limits.channel[other] for other in page)
            capped = limits.max_per_channel is not None and limits.channel[item] >= 0
            if item not in chosen and not (capped and same >= limits.max_per_channel):
                allowed.append(item)
        left = min(start + limits.window, num_items) - len(chosen)
        missing = limits.min_fresh - sum(bool(limits.is_fresh[item]) for item in page)
        fresh = [item for item in allowed if limits.is_fresh[item]]
        if missing >= left and fresh:
            allowed = fresh
        if not allowed:
            break

        def value(item):
            likeness = [
                float(np.dot(limits.directions[item], limits.directions[other])) for other in chosen
            ]
            penalty = spread * max(likeness) if likeness else 0.0
            return (1 - limits.diversity) * score[item] - limits.diversity * penalty

        chosen.append(max(allowed, key=lambda item: (value(item), -item)))
    return chosen


@given(
    seed=st.integers(0, 10_000),
    num_candidates=st.integers(0, 14),
    window=st.integers(1, 6),
    max_per_channel=st.none() | st.integers(1, 3),
    min_fresh=st.integers(0, 4),
    diversity=st.sampled_from([0.0, 0.25, 0.75]),
    num_items=st.integers(1, 16),
)
def test_arrangement_is_that_of_the_slow_twin(
    seed, num_candidates, window, max_per_channel, min_fresh, diversity, num_items
):
    rng = np.random.default_rng(seed)
    # Of eighths, and directions along the axes, so that no sum is rounded.
    score = (rng.integers(-40, 40, num_candidates) / 8).tolist()
    limits = limits_of(
        num_candidates,
        window=window,
        channel=rng.integers(-1, 4, num_candidates),
        max_per_channel=max_per_channel,
        fresh=np.flatnonzero(rng.random(num_candidates) < 0.4),
        min_fresh=min_fresh,
        vectors=np.eye(3)[rng.integers(0, 3, num_candidates)].reshape(num_candidates, 3),
        diversity=diversity,
    )
    assert greedy(score, limits, num_items) == slowly(score, limits, num_items)


DRAWN = {
    "caps": {"channel": [0, 0, 1, 1, -1], "max_per_channel": 1},
    "fresh": {"fresh": (3, 4), "min_fresh": 1},
    "diversity": {"vectors": [NEAR, NEAR, FAR, FAR, [0.6, 0.8]], "diversity": 0.4},
    "all": {
        "channel": [0, 0, 1, 1, -1],
        "max_per_channel": 1,
        "fresh": (1, 3),
        "min_fresh": 1,
        "vectors": [NEAR, NEAR, FAR, FAR, [0.6, 0.8]],
        "diversity": 0.4,
    },
}


@pytest.mark.parametrize("changes", DRAWN.values(), ids=DRAWN)
def test_drawn_places_come_as_often_as_their_propensities_say(changes):
    score, temperature, num_draws = np.array([3.0, 2.5, 2.0, 1.0, 0.5]), 1.5, 2500
    limits = limits_of(5, window=2, **changes)
    rng = np.random.default_rng(0)
    times, probability = Counter(), defaultdict(set)
    for _ in range(num_draws):
        draws = PlackettLuceDraws(temperature, rng)
        order = arrange(score, limits, 3, draws).tolist()
        for place in range(1, 4):
            times[tuple(order[:place])] += 1
            probability[tuple(order[:place])].add(round(np.prod(draws.propensity[:place]), 12))
    assert all(len(values) == 1 for values in probability.values())
    for beginning, (expected,) in probability.items():
        error = np.sqrt(expected * (1 - expected) / num_draws)
        assert times[beginning] / num_draws == pytest.approx(expected, abs=4.5 * error + 1e-9)
    seen = [min(values) for beginning, values in probability.items() if len(beginning) == 3]
    assert 0.97 < sum(seen) <= 1 + 1e-9
    assert len(seen) > 4


def test_draws_that_nothing_limits_have_the_propensities_of_plackett_luce():
    score, rng = np.linspace(0, 9, 12), np.random.default_rng(1)
    draws = PlackettLuceDraws(2.0, rng)
    order = arrange(score, limits_of(12), 12, draws)
    assert sorted(order.tolist()) == list(range(12))
    np.testing.assert_allclose(draws.propensity, plackett_luce_propensities(score, 2.0, order))
    np.testing.assert_allclose(draws.score, score[order])


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_extreme_temperatures_give_probabilities(temperature):
    draws = PlackettLuceDraws(temperature, np.random.default_rng(2))
    order = arrange(np.array([5.0, 4.0, 3.0]), limits_of(3), 3, draws)
    assert all(0 < each <= 1 for each in draws.propensity)
    if temperature < 1:
        assert order.tolist() == [0, 1, 2]
