"""The candidate net as a policy: its loss by hand, what its head learns, its feedback."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from recsys.candidates.batches import TrainingBatches
from recsys.candidates.feedback import Feedback, feedback_of
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.core.backends import to_numpy
from recsys.data.examples import TRAINING
from recsys.data.timelines import Timelines
from tests.candidates.small_log import NUM_ITEMS, model_of, random_shard, settings_of, shard_of

CORRECTED = {"top_k": 3, "weight_cap": 2.0}


def feedback_at_random(part, *, unknown=0.4):
    rng = np.random.default_rng(0)
    number = len(part[1].item)
    log_propensity = np.log(rng.uniform(0.01, 0.5, number))
    log_propensity[rng.random(number) < unknown] = np.nan
    seconds = rng.gamma(1, 20, number).astype(np.float32)
    return Feedback(seconds, log_propensity.astype(np.float32))


def batch_of(settings, part=None, sampler=None):
    part = part or random_shard()
    feedback = [feedback_at_random(part)]
    labels = join_labels([part], settings, split=TRAINING, num_trained=NUM_ITEMS, feedback=feedback)
    batches = TrainingBatches(join_sequences([part]), labels, settings, sampler, seed=0)
    return next(iter(batches(0))), labels


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def of_labels(values, batch):
    return np.take_along_axis(values, batch["labels"].reshape(-1, 1), axis=-1)[:, 0]


def slow_loss(model, batch):
    """Return the loss of policy and head from all logits, in NumPy."""
    users = model(batch)
    scores = to_numpy(model.served_user_vectors(batch)).reshape(len(users.vectors), -1)
    own = of_labels(log_softmax(scores @ model.item_vectors().T), batch)
    head = model.behaviour
    of_head = of_labels(log_softmax(to_numpy(head.logits(head(users.hidden)))), batch)
    logged = batch["log_propensity"].ravel()
    log_behaviour = np.where(np.isnan(logged), of_head, logged)
    weight = np.minimum(np.exp(own - log_behaviour), CORRECTED["weight_cap"])
    multiplier = 3 * (1 - np.exp(own)) ** 2
    loss = -weight * multiplier * batch["reward"].ravel() * own - of_head
    inside = batch["weight"].ravel()
    return (loss * inside).sum() / inside.sum(), (weight * inside).sum() / inside.sum()


def settled(**changes):
    settings = settings_of(similarity="inner_product", policy_gradient=CORRECTED, **changes)
    model = model_of(settings)
    rng = np.random.default_rng(1)
    for variable in (model.output_bias, model.behaviour.bias):
        variable.assign(rng.normal(size=NUM_ITEMS))
    return settings, model


def test_loss_is_that_of_all_logits_by_hand():
    settings, model = settled()
    batch, _ = batch_of(settings)
    loss, figures = model.softmax_loss(batch, training=False)
    expected, weight = slow_loss(model, batch)
    assert float(to_numpy(loss)) == pytest.approx(expected, rel=1e-4)
    assert float(to_numpy(figures["off_policy_weight"])) == pytest.approx(weight, rel=1e-4)


def test_each_item_as_a_negative_gives_the_loss_of_all_logits():
    settings, model = settled(loss="sampled_softmax")
    sampler = NegativeSampler({"uniform": 7}, np.ones(NUM_ITEMS, np.int64))
    batch, _ = batch_of(settings, sampler=sampler)
    batch |= {
        "negatives": np.arange(NUM_ITEMS, dtype=np.int32),
        "log_expected_counts": np.zeros(NUM_ITEMS, np.float32),
    }
    loss, _ = model.softmax_loss(batch, training=False)
    assert float(to_numpy(loss)) == pytest.approx(slow_loss(model, batch)[0], rel=1e-4)


def gradients(model, batch, chosen):
    with tf.GradientTape() as tape:
        loss, _ = model.softmax_loss(batch, training=False)
    found = tape.gradient(
        loss,
        [variable.value for variable in chosen],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.convert_to_tensor(each) for each in found]


def test_head_learns_from_users_and_teaches_them_nothing():
    settings, model = settled()
    batch, _ = batch_of(settings)
    unrewarded = batch | {"reward": np.zeros_like(batch["reward"])}
    of_net = [model.watch_table.variables[0], *model.tower.trainable_variables]
    assert all(not np.any(g) for g in gradients(model, unrewarded, of_net))
    of_head = gradients(model, unrewarded, [model.behaviour.bias])[0]
    assert np.abs(of_head).max() > 0
    rewarded = gradients(model, batch, of_net)
    assert any(np.any(g) for g in rewarded)


def test_policy_teaches_the_head_nothing():
    """Where the log tells nothing, beta is the head's, and is a number to the policy."""
    settings, model = settled()
    batch, _ = batch_of(settings)
    batch["log_propensity"] = np.full_like(batch["log_propensity"], np.nan)
    once, tenfold = (
        gradients(model, batch | {"reward": scale * batch["reward"]}, [model.behaviour.bias])[0]
        for scale in (1, 10)
    )
    np.testing.assert_allclose(once, tenfold)


def test_head_learns_what_the_log_has():
    """Without any input that tells users apart, the shares of the labels."""
    settings = settings_of(similarity="inner_product", policy_gradient={})
    model = model_of(settings)
    part = shard_of([[0, 0, 0, 1, 2, 0]] * 6)
    batch, _ = batch_of(settings, part)
    optimizer = keras.optimizers.Adam(0.1)
    chosen = model.behaviour.trainable_variables
    for _ in range(150):
        found = gradients(model, batch, chosen)
        optimizer.apply(found, chosen)
    head = model.behaviour
    log_shares = log_softmax(to_numpy(head.logits(head(model(batch).hidden))))
    own = np.exp(of_labels(log_shares, batch))[batch["weight"].ravel() > 0]
    assert own.mean() > 0.6


def test_rewards_are_seconds_over_their_mean_or_all_the_same():
    for reward, logged in (("watch_seconds", True), ("watch", False)):
        section = {"reward": reward, "logged_propensities": logged}
        settings = settings_of(policy_gradient=section)
        batch, labels = batch_of(settings)
        inside = batch["weight"] > 0
        assert np.isnan(batch["log_propensity"][inside]).all() != logged
        if reward == "watch":
            np.testing.assert_array_equal(batch["reward"], 1)
        else:
            known = labels.watch_seconds / labels.watch_seconds.mean()
            assert np.isin(batch["reward"][inside], known.astype(np.float32)).all()


def test_labels_keep_their_feedback():
    parts = [random_shard(3, seed=0), random_shard(2, seed=1)]
    feedback = [feedback_at_random(part) for part in parts]
    labels = join_labels(
        parts, settings_of(), split=TRAINING, num_trained=NUM_ITEMS, feedback=feedback
    )
    chosen = [part[1].split == TRAINING for part in parts]
    wanted = [each.watch_seconds[mask] for each, mask in zip(feedback, chosen, strict=True)]
    np.testing.assert_array_equal(labels.watch_seconds, np.concatenate(wanted))
    assert np.isnan(labels.log_propensity).any()


def timelines_of(rows):
    """Make the timelines of (user, item, moment, watch_ms, is_watch) rows."""
    user, item, moment, watch_ms, is_watch = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    counts = np.bincount(user, minlength=2)
    return Timelines(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        item=item.astype(np.int32),
        moment=moment,
        outcome_moment=moment + watch_ms,
        has_time=np.ones(len(user), bool),
        watch_ms=watch_ms,
        clicked=np.ones(len(user), np.int8),
        is_impression=np.ones(len(user), bool),
        is_watch=is_watch.astype(bool),
    )


def test_feedback_is_that_of_the_event_behind_a_label():
    timelines = timelines_of(
        [
            (0, 5, 10, 4_000, 1),
            (0, 6, 10, 9_000, 1),
            (0, 5, 20, 700, 0),
            (0, 5, 30, -1, 1),
            (1, 5, 10, 2_500, 1),
        ]
    )
    examples = shard_of([[0], [0]])[1]
    examples = replace(
        examples,
        user=np.array([1, 0, 0, 0], np.int32),
        item=np.array([5, 6, 5, 5], np.int32),
        moment=np.array([10, 10, 30, 10]),
    )
    found = feedback_of(examples, timelines, np.array([0.5, np.nan, 0.2, 0.25, 0.125]))
    np.testing.assert_allclose(found.watch_seconds, [2.5, 9, 0, 4])
    np.testing.assert_allclose(found.log_propensity, np.log([0.125, np.nan, 0.25, 0.5]), rtol=1e-6)
