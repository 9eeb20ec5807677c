"""Off-policy estimates in the synthetic world, where the value of any policy is a sum.

Logged are the items at the top of pages (`recsys.data.sources.world`), at four moments of the
world's fortnight. The target is the same mixture with topics twice as sharp. Its value is worked
out over all items for every user, weighted by how often they come. A replication draws ten thousand
users anew, with their visits, items and watches, so that the rows of a user depend on each other
through what the user likes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.data.sources.world import DAY_US, LoggingPolicy, World, make_world
from recsys.evaluation.intervals import ratio_intervals
from recsys.off_policy.cross_fitting import cross_fit
from recsys.off_policy.estimators import ips
from recsys.off_policy.policies import LoggedRows, Target, estimate_terms
from recsys.off_policy.weights import check_overlap, importance_weights, marginal_weights
from recsys.progress import track

NUM_USERS, NUM_ITEMS, NUM_DAYS = 5_000, 300, 14
MOMENTS = 4
DRAWN_USERS, VISITS = 10_000, 10
"""About 100,000 impressions a replication."""
ROUNDS = 200
PRIOR_ROWS = 10.0


@dataclass(frozen=True)
class Choices:
    """All that both policies may do; a state is a user at a moment, V of them.

    Args:
        world: Whose items are shown.
        users, time_us: int64 [V].
        logging, target: float64 [V, N], probabilities of the item at the top of a page.
        running: float64 [V, N], the logging policy's summed.
        favourite: int64 [V], the topic that the logging policy shows most.
        marginal: float64 [V, K], weights of the items' topics.
        value: True mean seconds of an impression under the target.
    """

    world: World
    users: np.ndarray
    time_us: np.ndarray
    logging: np.ndarray
    target: np.ndarray
    running: np.ndarray
    favourite: np.ndarray
    marginal: np.ndarray
    value: float


def audit(num_replications: int, seed: int) -> dict[str, Any]:
    """Return errors and coverage of every estimator over the replications."""
    choices = _choices(seed)
    rng = np.random.default_rng(seed)
    found = [
        _replicate(choices, number, rng)
        for number in track(range(num_replications), "replications of the world")
    ]
    names = list(found[0])
    errors = {name: np.array([one[name][0] for one in found]) / choices.value - 1 for name in names}
    rmse = {name: float(np.sqrt(np.mean(error**2))) for name, error in errors.items()}
    by_users, by_rows = (
        {name: float(np.mean([one[name][kind] for one in found])) for name in names}
        for kind in (1, 2)
    )
    return {
        "dr_relative_rmse": rmse["doubly_robust"],
        "cluster_coverage": by_users["doubly_robust"],
        "row_coverage": by_rows["doubly_robust"],
        "world_relative_rmse": rmse,
        "world_relative_bias": {name: float(error.mean()) for name, error in errors.items()},
        "world_cluster_coverage": by_users,
        "world_row_coverage": by_rows,
        "world_true_seconds": choices.value,
    }


def _replicate(
    choices: Choices, number: int, rng: np.random.Generator
) -> dict[str, tuple[float, bool, bool]]:
    """Return each estimate, and whether its interval over users, over rows, holds the truth."""
    log, state, items = _draw_log(choices, rng)
    target = _target(choices, log, state, items, number)
    check_overlap(importance_weights(target.probabilities, log.propensities), log.users)
    terms, _ = estimate_terms(log, target)
    topics = choices.world.item_topic[items]
    terms["marginalised_ips"] = ips(choices.marginal[state, topics], log.rewards)
    above = {name: term.above for name, term in terms.items()}
    below = {name: term.below for name, term in terms.items()}
    by_users, by_rows = (
        ratio_intervals(above, below, users, rounds=ROUNDS, seed=number)
        for users in (log.users, np.arange(len(items)))
    )
    return {
        name: (
            terms[name].value,
            by_users[name].low <= choices.value <= by_users[name].high,
            by_rows[name].low <= choices.value <= by_rows[name].high,
        )
        for name in terms
    }


def _choices(seed: int) -> Choices:
    world = make_world(
        num_users=NUM_USERS, num_items=NUM_ITEMS, num_days=NUM_DAYS, num_countries=6, seed=seed
    )
    policy = LoggingPolicy(world)
    days = NUM_DAYS * (np.arange(MOMENTS) + 1) // (MOMENTS + 1)
    users = np.tile(np.arange(NUM_USERS), MOMENTS)
    time_us = np.repeat(world.start_us + days * DAY_US, NUM_USERS)
    topics = world.topic_probabilities(users, time_us).astype(np.float64)
    topics /= topics.sum(axis=1, keepdims=True)
    sharper = topics**2 / (topics**2).sum(axis=1, keepdims=True)
    seconds, logging, target = (np.empty((len(users), NUM_ITEMS)) for _ in range(3))
    top = np.zeros(len(users), np.int64)
    for item in range(NUM_ITEMS):
        every = np.full(len(users), item)
        seconds[:, item] = world.expected_watch_ms(users, every, top, time_us) / 1000
        logging[:, item] = policy.probabilities(topics, every, time_us)
        target[:, item] = policy.probabilities(sharper, every, time_us)
    of_state = (target * seconds).sum(axis=1)
    weight = world.activity[users]
    first_of_topic = np.array(
        [np.flatnonzero(world.item_topic == topic)[0] for topic in range(world.num_topics)]
    )
    marginal = [
        marginal_weights(target, logging, world.item_topic, np.full(len(users), item))
        for item in first_of_topic
    ]
    return Choices(
        world=world,
        users=users,
        time_us=time_us,
        logging=logging,
        target=target,
        running=np.cumsum(logging, axis=1),
        favourite=topics.argmax(axis=1),
        marginal=np.stack(marginal, axis=1),
        value=float(weight @ of_state / weight.sum()),
    )


def _draw_log(
    choices: Choices, rng: np.random.Generator
) -> tuple[LoggedRows, np.ndarray, np.ndarray]:
    """Draw users, their visits and what they watch; with the state and item of each row."""
    world = choices.world
    drawn = rng.integers(NUM_USERS, size=DRAWN_USERS)
    visits = rng.poisson(VISITS * world.activity[drawn])
    owner = np.repeat(np.arange(DRAWN_USERS), visits)
    state = drawn[owner] + NUM_USERS * rng.integers(MOMENTS, size=len(owner))
    place = rng.random(len(owner)) * choices.running[state, -1]
    items = np.concatenate(
        [
            (choices.running[state[rows]] <= place[rows, None]).sum(axis=1)
            for rows in np.array_split(np.arange(len(owner)), 20)
        ]
    )
    top = np.zeros(len(owner), np.int64)
    _, watch_ms, _ = world.draw_outcomes(
        choices.users[state], items, top, choices.time_us[state], rng=rng
    )
    return LoggedRows(watch_ms / 1000, choices.logging[state, items], owner), state, items


def _target(
    choices: Choices, log: LoggedRows, state: np.ndarray, items: np.ndarray, seed: int
) -> Target:
    """Return the target with a model of the rewards: means by favourite topic and item."""
    num_topics = choices.world.num_topics
    cell = choices.favourite[state] * NUM_ITEMS + items

    def fit_and_predict(learned: np.ndarray, held: np.ndarray) -> np.ndarray:
        item_means = _smoothed(items[learned], log.rewards[learned], log.rewards[learned].mean())
        prior = np.tile(item_means, num_topics)
        means = _smoothed(cell[learned], log.rewards[learned], prior)
        by_topic = means.reshape(num_topics, NUM_ITEMS)
        expected = np.einsum("vn,vn->v", choices.target, by_topic[choices.favourite])
        return np.stack([means[cell[held]], expected[state[held]]], axis=1)

    predictions = cross_fit(fit_and_predict, log.users, seed=seed)
    return Target(choices.target[state, items], predictions[:, 0], predictions[:, 1])


def _smoothed(groups: np.ndarray, rewards: np.ndarray, prior: np.ndarray | float) -> np.ndarray:
    """Return the mean of each group, with so many rows of the prior beside its own."""
    number = np.size(prior) if np.ndim(prior) else NUM_ITEMS
    counts = np.bincount(groups, minlength=number)
    return (np.bincount(groups, rewards, number) + PRIOR_ROWS * prior) / (counts + PRIOR_ROWS)
