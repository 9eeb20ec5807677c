from dataclasses import replace

import numpy as np
import pytest

from recsys.core.backends import to_numpy
from recsys.core.training import train
from recsys.exploration.batches import ExplorationBatches
from recsys.exploration.features import KnownWatches
from recsys.exploration.neural_process import NeuralProcess
from recsys.exploration.rows import ExplorationRows
from recsys.ranking.rows import RankingRows
from recsys.settings import ExplorationSettings, TrainingSettings
from tests.exploration.small_process import (
    SIZES,
    SPEC,
    make_model,
    make_rows,
    make_scales,
    make_timelines,
    outputs,
)

ROWS = make_rows()
CHOSEN = np.arange(len(ROWS))


@pytest.fixture(scope="module")
def model():
    return make_model(ROWS)


def inputs_of(context=ROWS.context, chosen=CHOSEN):
    return ROWS.inputs(chosen, context)


def test_order_of_context_does_not_matter(model):
    mixed = ROWS.context[:, ::-1]
    np.testing.assert_allclose(
        outputs(model, inputs_of(mixed)), outputs(model, inputs_of()), atol=1e-5
    )


def test_context_matters(model):
    others = np.roll(ROWS.context, 9, axis=0)
    assert np.abs(outputs(model, inputs_of(others)) - outputs(model, inputs_of())).max() > 0.01


def test_each_watch_of_the_context_matters_by_its_outcome(model):
    inputs = inputs_of()
    changed = inputs | {"context_outcome": inputs["context_outcome"] + 1}
    differs = np.abs(outputs(model, changed) - outputs(model, inputs)).max(axis=(1, 2)) > 1e-4
    np.testing.assert_array_equal(differs, ROWS.context_sizes() > 0)


def test_padding_does_not_matter(model):
    longer = np.concatenate([ROWS.context, np.full_like(ROWS.context, -1)], axis=1)
    inputs = inputs_of(longer)
    unknown = inputs["context_known"] == 0
    inputs["context_outcome"] = np.where(unknown, 99, inputs["context_outcome"])
    inputs["context_item"] = np.where(unknown, 1, inputs["context_item"])
    np.testing.assert_allclose(outputs(model, inputs), outputs(model, inputs_of()), atol=1e-5)


def test_summary_of_no_watch_is_the_prior(model):
    nothing = np.full_like(ROWS.context, -1)
    summary = np.array(model.summary(inputs_of(nothing)))
    np.testing.assert_allclose(
        summary, np.tile(to_numpy(model.prior.value), (len(ROWS), 1)), atol=1e-6
    )


def test_summary_of_two_watches_is_the_mean_with_the_prior(model):
    row = int(np.flatnonzero(ROWS.context_sizes() == 2)[0])
    first, second = ROWS.context[row, :2]

    def summary(*context):
        return np.array(model.summary(inputs_of(np.array([[*context, -1]]), np.array([row]))))[0]

    prior = to_numpy(model.prior.value)
    alone = [2 * summary(watch) - prior for watch in (first, second)]
    np.testing.assert_allclose(summary(first, second), (prior + sum(alone)) / 3, atol=1e-5)


def test_deviation_is_above_a_tenth_of_the_scale(model):
    bias = model.outputs_dense.bias
    before = to_numpy(bias.value)
    bias.assign(before + np.array([0, -100, 0], np.float32))
    smallest = outputs(model, inputs_of())[..., 1]
    bias.assign(before)
    np.testing.assert_allclose(smallest, 0.1 * 1.2, rtol=1e-5)
    assert (outputs(model, inputs_of())[..., 1] > smallest).all()


def test_candidates_together_are_scored_as_alone(model):
    inputs = inputs_of()
    one = {
        name: np.swapaxes(values, 0, 1) if name.startswith("target_") else values[20:21]
        for name, values in inputs.items()
    }
    alone = {
        name: values if name.startswith("target_") else np.repeat(values[20:21], len(ROWS), axis=0)
        for name, values in inputs.items()
    }
    np.testing.assert_allclose(outputs(model, one)[0], outputs(model, alone)[:, 0], atol=1e-5)


@pytest.mark.parametrize("row", [0, 20, 71])
def test_rows_of_a_batch_are_predicted_as_alone(model, row):
    alone = outputs(model, inputs_of(ROWS.context[[row]], np.array([row])))
    np.testing.assert_allclose(outputs(model, inputs_of())[row], alone[0], atol=1e-5)


def test_same_seed_makes_the_same_net():
    scales = make_scales(ROWS, 5, mean=0.0, deviation=1.0)
    first, again, other = (
        NeuralProcess(ExplorationSettings(), SPEC, scales, SIZES, seed=seed) for seed in (1, 1, 2)
    )
    found = [outputs(net, inputs_of()) for net in (first, again, other)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_unknown_completion_has_no_loss(model):
    batch = next(ExplorationBatches(ROWS, CHOSEN, 72, order="newest", seed=0).in_order())
    losses = np.array(model.row_losses(batch))
    np.testing.assert_array_equal(losses[:, 1] == 0, ROWS.impressions.completed < 0)


LEVEL_MEAN, LEVEL_DEVIATION, NOISE = 4.0, 0.8, 0.6
PER_USER = 13


@pytest.fixture(scope="module")
def normal_world():
    """Rows of users with a level of their own, y = level + noise, all of one item."""
    rng = np.random.default_rng(0)
    num_users = 2500
    level = LEVEL_MEAN + LEVEL_DEVIATION * rng.standard_normal((num_users, 1))
    outcome = level + NOISE * rng.standard_normal((num_users, PER_USER))
    watch_ms = np.round(np.expm1(outcome.ravel()) * 1000).astype(np.int64)
    timelines = make_timelines(rng, num_users, PER_USER, watch_ms)
    timelines = replace(timelines, item=np.zeros_like(timelines.item))
    known, user = KnownWatches(timelines), timelines.user_of_event()
    like, total = make_rows(num_users=1, per_user=1), len(user)
    features = {
        name: np.repeat(values, total, axis=0) for name, values in like.impressions.features.items()
    }
    unknown = np.full(total, -1, np.int8)
    impressions = RankingRows(
        features=features,
        user=user.astype(np.int32),
        item=timelines.item,
        duration_ms=np.full(total, -1),
        watch_ms=watch_ms,
        completed=unknown,
        clicked=unknown,
        liked=unknown,
        split=(user % 10 == 0).astype(np.int8),
    )
    context = known.newest(user, timelines.moment, PER_USER - 1)
    return ExplorationRows(impressions, context, known.watches, like.items, SPEC)


@pytest.fixture(scope="module")
def trained(normal_world, tmp_path_factory):
    rows = normal_world
    settings = ExplorationSettings(
        encoder=(32, 32),
        decoder=(32, 32),
        dropout=0.0,
        embedding_dropout=0.0,
        training=TrainingSettings(
            batch_size=512, max_epochs=6, learning_rate=5e-3, decay="linear", tensorboard=False
        ),
    )
    scales = make_scales(rows, 2, mean=LEVEL_MEAN, deviation=1.0)
    net = NeuralProcess(settings, SPEC, scales, SIZES, seed=0)
    chosen = np.flatnonzero(rows.impressions.split == 0)
    batches = ExplorationBatches(rows, chosen, 512, order="newest", seed=0)
    history = train(
        net,
        net.loss_of,
        batches,
        None,
        settings.training,
        monitor="",
        larger_is_better=False,
        directory=tmp_path_factory.mktemp("process"),
        seed=0,
        description="",
        num_batches=len(batches),
    )
    return net, history


def test_negative_likelihood_falls_in_training_towards_that_of_bayes(normal_world, trained):
    losses = [epoch.figures["outcome_loss"] for epoch in trained[1].epochs]
    size = normal_world.context_sizes()[:PER_USER]  # of each, all cuts from 0 to it are alike
    variance = 1 / (1 / LEVEL_DEVIATION**2 + np.arange(PER_USER) / NOISE**2) + NOISE**2
    best = 0.5 * np.log(2 * np.pi * np.e * variance)
    of_bayes = np.mean([best[: number + 1].mean() for number in size])
    assert losses[0] > losses[-1]
    assert abs(losses[-1] - of_bayes) < 0.02


@pytest.mark.parametrize("size", [0, 1, 3, 10])
def test_normal_world_gives_the_posterior_of_bayes(normal_world, trained, size):
    rows = normal_world.cut(size)
    chosen = np.flatnonzero((rows.impressions.split == 1) & (rows.context_sizes() == size))
    found = outputs(trained[0], rows.inputs(chosen, rows.context[chosen]))[:, 0]
    watched = np.log1p(rows.watches.at(rows.context[chosen]).watch_ms / 1000)[:, :size]
    precision = 1 / LEVEL_DEVIATION**2 + size / NOISE**2
    posterior = (LEVEL_MEAN / LEVEL_DEVIATION**2 + watched.sum(axis=1) / NOISE**2) / precision
    deviation = np.sqrt(1 / precision + NOISE**2)
    assert np.abs(found[:, 0] - posterior).mean() < 0.06 * deviation
    np.testing.assert_allclose(found[:, 1].mean(), deviation, rtol=0.05)
    if size:
        slope = np.polyfit(watched.mean(axis=1), found[:, 0], 1)[0]
        shrinkage = size / NOISE**2 / precision
        np.testing.assert_allclose(slope, shrinkage, rtol=0.06)
