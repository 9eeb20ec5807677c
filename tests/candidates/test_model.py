"""The candidate net: its softmax, its served vectors, what its inputs do."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from recsys.candidates.batches import TrainingBatches
from recsys.candidates.model import CandidateModel
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.successors import count_successors
from recsys.candidates.user_tower import successor_weights
from recsys.core.backends import compile_step, to_numpy
from recsys.core.checkpoint import write_variables
from recsys.core.optimizers.by_name import new_optimizer
from recsys.data.examples import TRAINING
from tests.candidates.small_log import (
    NUM_ITEMS,
    model_of,
    random_shard,
    settings_of,
    sizes_of,
)

SIMILARITIES = ["inner_product", "cosine"]


def first_batches(settings, count=1):
    parts = [random_shard()]
    labels = join_labels(parts, settings, split=TRAINING, num_trained=NUM_ITEMS)
    sampler = NegativeSampler({"uniform": 7}, np.ones(NUM_ITEMS, np.int64))
    batches = TrainingBatches(join_sequences(parts), labels, settings, sampler, seed=0)
    return list(batches(0))[:count]


def logits_of(model, batch):
    """Return logits the slow way, from served vectors: float [B, P, N]."""
    scores = to_numpy(model.served_user_vectors(batch)) @ model.item_vectors().T
    if model.settings.similarity == "cosine":
        scores = scores * np.exp(to_numpy(model.log_scale.value))
    return scores


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("changes", [{}, {"shared_table": True, "skip": True}])
def test_full_softmax_equals_the_cross_entropy_of_served_vectors(similarity, changes):
    settings = settings_of(similarity=similarity, **changes)
    model, (batch,) = model_of(settings), first_batches(settings)
    if similarity == "inner_product":
        model.output_bias.assign(np.linspace(-2, 2, NUM_ITEMS))
    logits = logits_of(model, batch)
    own = np.take_along_axis(logits, batch["labels"][..., None], axis=-1)[..., 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - own
    expected = (losses * batch["weight"]).sum() / batch["weight"].sum()
    found, _ = model.softmax_loss(batch, training=False)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_sampled_softmax_of_each_item_once_equals_the_full_one(similarity):
    full = settings_of(similarity=similarity)
    sampled = settings_of(similarity=similarity, loss="sampled_softmax")
    (batch,) = first_batches(full)
    batch["negatives"] = np.arange(NUM_ITEMS, dtype=np.int32)
    batch["log_expected_counts"] = np.zeros(NUM_ITEMS, np.float32)
    values = []
    for settings in (full, sampled):
        model = model_of(settings)
        if similarity == "inner_product":
            model.output_bias.assign(np.linspace(-2, 2, NUM_ITEMS))
        values.append(float(model.softmax_loss(batch, training=False)[0]))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_padding_has_no_say_in_the_loss():
    settings = settings_of()
    model, (batch,) = model_of(settings), first_batches(settings)
    before = float(model.softmax_loss(batch, training=False)[0])
    padding = batch["weight"] == 0
    assert padding.any()
    batch["labels"][padding] = 5
    batch["positions"][padding] = 1
    assert float(model.softmax_loss(batch, training=False)[0]) == before


ENCODERS = [
    {"encoder": "bag"},
    {"encoder": "gru", "windows": ()},
    {"encoder": "gru"},
    {"encoder": "lstm", "windows": ()},
    {"encoder": "convolution", "windows": (), "filter_length": 4},
    {"encoder": "capsules", "windows": ()},
    {"encoder": "capsules"},
    {"encoder": "attention", "windows": ()},
    {"encoder": "attention", "watch_times": True},
]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_prefix_of_a_sequence_equals_the_same_history_alone(encoder):
    settings = settings_of(encoder_lookback=1000, max_sequence_length=1000, **encoder)
    model, (batch,) = model_of(settings), first_batches(settings)
    vectors = to_numpy(model.served_user_vectors(batch))
    for row, column in np.argwhere(batch["weight"] > 0)[:8]:
        known = batch["positions"][row, column]
        alone = {
            name: values[row : row + 1, column : column + 1]
            for name, values in batch.items()
            if values.ndim > 1 and name not in ("history", "watch_seconds")
        }
        end = max(known, 1)
        alone["history"] = batch["history"][row : row + 1, :end]
        if settings.watch_times:
            seconds = batch["watch_seconds"][row : row + 1, :end]
            alone["watch_seconds"] = seconds - seconds.max(axis=1, initial=0)
        interests = slice(column * settings.interests, (column + 1) * settings.interests)
        np.testing.assert_allclose(
            to_numpy(model.served_user_vectors(alone))[0], vectors[row, interests], atol=1e-5
        )


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_loss_of_several_interests_is_that_of_the_nearest_to_the_label(similarity, loss):
    settings = settings_of(
        encoder="capsules", num_interests=3, similarity=similarity, loss="sampled_softmax"
    )
    (batch,) = first_batches(settings)
    batch |= {
        "negatives": np.arange(NUM_ITEMS, dtype=np.int32),
        "log_expected_counts": np.zeros(NUM_ITEMS, np.float32),
    }
    model = model_of(settings.model_copy(update={"loss": loss}))
    logits = logits_of(model, batch)  # [B, P * K, N]
    logits = logits.reshape(*batch["labels"].shape, 3, NUM_ITEMS)
    own = np.take_along_axis(logits, batch["labels"][..., None, None], axis=-1)[..., 0]
    nearest = own.argmax(axis=-1)
    assert len(np.unique(nearest)) > 1
    chosen = np.take_along_axis(logits, nearest[..., None, None], axis=2)[:, :, 0]
    losses = np.log(np.exp(chosen).sum(axis=-1)) - own.max(axis=-1)
    expected = (losses * batch["weight"]).sum() / batch["weight"].sum()
    found, _ = model.softmax_loss(batch, training=False)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("encoder", ["bag", "capsules"])
def test_padding_counts_for_nothing_where_batches_are_normalised(encoder):
    settings = settings_of(
        encoder=encoder, layers={"normalisation": "batch"}, loss="sampled_softmax"
    )
    (batch,) = first_batches(settings)
    padding = batch["weight"] == 0
    assert padding.any()
    other = batch | {"age": np.where(padding, 90, batch["age"]).astype(np.float32)}
    first, second = (
        float(model_of(settings).softmax_loss(each, training=True)[0]) for each in (batch, other)
    )
    assert first == pytest.approx(second, rel=1e-6)


def test_bags_forget_what_is_older_than_the_longest_window():
    settings = settings_of(windows=(1, 4))
    model, (batch,) = model_of(settings), first_batches(settings)
    known = int(batch["positions"].max())
    assert known > 4
    changed = batch | {"history": batch["history"].copy()}
    row, column = np.argwhere(batch["positions"] == known)[0]
    changed["history"][row, : known - 4] = 1 + changed["history"][row, : known - 4] % NUM_ITEMS
    first, second = (
        to_numpy(model.served_user_vectors(each))[row, column] for each in (batch, changed)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "name",
    [
        "history",
        "search_tokens",
        "context",
        "age",
        "example_age",
        "query_time",
        "minutes_since_watch",
    ],
)
def test_every_input_changes_the_user_vector(name):
    settings = settings_of(query_time=True, minutes_since_watch=True)
    model, (batch,) = model_of(settings), first_batches(settings)
    real = batch["weight"] > 0
    real &= batch["positions"] > 0
    other = batch | {name: (batch[name] + 1) % 3}
    if name == "age":
        other[name] = np.where(np.isnan(batch[name]), 50, np.nan).astype(np.float32)
    moved = np.abs(
        to_numpy(model.served_user_vectors(batch)) - to_numpy(model.served_user_vectors(other))
    ).max(axis=-1)
    assert (moved[real] > 0).all()


def test_cosine_vectors_have_length_one():
    settings = settings_of(similarity="cosine")
    model, (batch,) = model_of(settings), first_batches(settings)
    vectors = to_numpy(model.served_user_vectors(batch))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.item_vectors(), axis=-1), 1, rtol=1e-5)


def test_temperature_starts_as_configured_and_is_learned():
    model = model_of(settings_of(similarity="cosine", temperature=0.1))
    assert float(np.exp(-to_numpy(model.log_scale.value))) == pytest.approx(0.1)
    assert any(variable is model.log_scale for variable in model.trainable_variables)


def test_models_of_one_seed_are_equal():
    first, second, other = (model_of(settings_of(), seed=seed) for seed in (0, 0, 1))
    for ours, theirs in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(ours.value), to_numpy(theirs.value))
    assert (first.item_vectors()[:, :-1] != other.item_vectors()[:, :-1]).all()


FEATURES = np.array([[1, 2, 0]] * 6 + [[3, 0, 0]] * 6 + [[1, 3, 4]] * 2, np.int32)


def sharing_model(**changes):
    """Return a net over 12 trained of 14 items that share features."""
    settings = settings_of(similarity="cosine", item_feature_buckets=4, **changes)
    sizes = replace(sizes_of(settings), item_features=FEATURES)
    return CandidateModel(settings, sizes, seed=0)


def test_items_without_a_watch_have_the_mean_of_what_they_share():
    model = sharing_model()
    vectors = model.item_vectors()
    assert vectors.shape == (14, 6)
    shared = to_numpy(model.output_table.shared.table.value)
    expected = shared[[1, 3, 4]].mean(axis=0)
    np.testing.assert_allclose(vectors[12], expected / np.linalg.norm(expected), rtol=1e-5)
    np.testing.assert_array_equal(vectors[12], vectors[13])


def test_served_rows_are_those_that_training_saw():
    model = sharing_model()
    codes = np.arange(NUM_ITEMS + 1)
    rows = to_numpy(model.output_table(codes))
    np.testing.assert_array_equal(rows[0], 0)
    served = model.output_table.served_rows()[:NUM_ITEMS]
    np.testing.assert_allclose(rows[1:], served, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(to_numpy(model.output_table.all_rows()), served, rtol=1e-5)


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_own_rows_are_left_out_of_the_loss_in_training_only(loss):
    model = sharing_model(own_dropout=0.5, loss=loss)
    (batch,) = first_batches(settings_of(loss="sampled_softmax"))
    calm = [float(model.softmax_loss(batch, training=False)[0]) for _ in range(2)]
    trained = [float(model.softmax_loss(batch, training=True)[0]) for _ in range(2)]
    assert calm[0] == calm[1]
    assert trained[0] != trained[1]


def test_own_rows_are_left_out_in_training_as_often_as_asked():
    model = sharing_model(own_dropout=0.3)
    codes = np.ones(4000, np.int32)
    shared = to_numpy(model.output_table.shared.table.value)[[1, 2]].mean(axis=0)
    rows = to_numpy(model.output_table(codes, training=True))
    share = np.isclose(rows, shared, atol=1e-6).all(axis=1).mean()
    assert share == pytest.approx(0.3, abs=0.03)


def test_popularity_enters_the_loss_as_it_enters_the_served_score():
    settings = settings_of(
        similarity="cosine", popularity_minutes=(60, 1440), loss="sampled_softmax"
    )
    model = model_of(settings)
    model.to_popularity_weights.kernel.assign(
        np.random.default_rng(1).normal(size=model.to_popularity_weights.kernel.shape)
    )
    (batch,) = first_batches(settings)
    rng = np.random.default_rng(0)
    columns = rng.random((2, NUM_ITEMS, 4)).astype(np.float32)  # at two moments
    step = rng.integers(0, 2, batch["labels"].shape).astype(np.int32)
    batch |= {
        "negatives": np.arange(NUM_ITEMS, dtype=np.int32),
        "log_expected_counts": np.zeros(NUM_ITEMS, np.float32),
        "popularity_step": step,
        "label_popularity": columns[step, batch["labels"]],
        "negative_popularity": columns,
    }
    served = to_numpy(model.served_user_vectors(batch))
    found, _ = model.softmax_loss(batch, training=False)
    losses = np.zeros(step.shape)
    for row, column in np.ndindex(*step.shape):
        items = np.concatenate([model.item_vectors(), columns[step[row, column]]], axis=1)
        logits = items @ served[row, column]
        losses[row, column] = np.log(np.exp(logits).sum()) - logits[batch["labels"][row, column]]
    expected = (losses * batch["weight"]).sum() / batch["weight"].sum()
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_what_the_user_has_seen_is_no_class_of_the_loss():
    settings = settings_of(similarity="cosine", seen_hidden=True, loss="sampled_softmax")
    model, (batch,) = model_of(settings), first_batches(settings)
    shape = batch["labels"].shape
    label = batch["labels"].ravel()
    seen = np.random.default_rng(0).random((len(label), NUM_ITEMS)) < 0.5
    batch |= {
        "negatives": np.arange(NUM_ITEMS, dtype=np.int32),
        "log_expected_counts": np.zeros(NUM_ITEMS, np.float32),
        "negative_is_hidden": seen,
    }
    logits = to_numpy(model.served_user_vectors(batch)).reshape(len(label), -1)
    logits = logits @ model.item_vectors().T * np.exp(to_numpy(model.log_scale.value))
    own = logits[np.arange(len(label)), label]
    seen[np.arange(len(label)), label] = False
    losses = np.log(np.exp(np.where(seen, -np.inf, logits)).sum(axis=1)) - own
    expected = np.average(losses.reshape(shape), weights=batch["weight"])
    found, _ = model.softmax_loss(batch, training=False)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_scales_and_shifts_are_of_what_is_served_alone():
    changes = {"popularity_minutes": (60, 120), "successor_windows": (2,)}
    plain = settings_of(loss="sampled_softmax", **changes)
    scaled = plain.model_copy(
        update={"vector_scale": 0.5, "successor_scale": 3.0, "popularity_shift": (0.25, -1.0)}
    )
    assert scaled.as_trained() == plain
    (batch,) = first_batches(plain)
    before, after = (
        to_numpy(model_of(each).served_user_vectors(batch)) for each in (plain, scaled)
    )
    width = plain.embedding_width + 1
    np.testing.assert_allclose(after[..., :width], 0.5 * before[..., :width], rtol=1e-6)
    np.testing.assert_allclose(after[..., width:-4], 3 * before[..., width:-4], rtol=1e-6)
    shifted = np.broadcast_to([0.25, -1, 0, 0], before[..., -4:].shape)
    np.testing.assert_allclose(after[..., -4:] - before[..., -4:], shifted, atol=1e-6)


def test_the_forecast_of_the_request_s_time_is_served_in_place_of_the_counts():
    changes = {"popularity_minutes": (60, 120), "successor_windows": (2,)}
    plain = settings_of(loss="sampled_softmax", **changes)
    forecasting = plain.model_copy(update={"forecast_minutes": 1440})
    assert forecasting.as_trained() == plain
    (batch,) = first_batches(plain)
    ages = np.resize([0, 119.5, 120, 479, 480, 1440, 9000], batch["positions"].shape)
    batch["minutes_since_forecast"] = ages.astype(np.float32)
    counted, forecast = (model_of(each) for each in (plain, forecasting))
    before, after = (to_numpy(each.served_user_vectors(batch)) for each in (counted, forecast))
    assert after.shape[-1] == forecast.served_width == counted.served_width - 1
    np.testing.assert_array_equal(after[..., :-3], before[..., :-4])
    part = np.resize([0, 0, 1, 1, 2, 2, 2], ages.shape)
    np.testing.assert_array_equal(after[..., -3:], np.eye(3)[part])
    np.testing.assert_array_equal(
        successor_weights(after, forecasting), successor_weights(before, plain)
    )


def test_a_shared_table_is_one_variable_that_both_sides_learn():
    settings = settings_of(shared_table=True, similarity="cosine")
    model, (batch,) = model_of(settings), first_batches(settings)
    tables = [v for v in model.trainable_variables if v.shape == (NUM_ITEMS + 1, 6)]
    assert [table is model.output_table.own.table for table in tables] == [True]
    before = to_numpy(tables[0].value).copy()
    history, labels = np.unique(batch["history"]), np.unique(batch["labels"][batch["weight"] > 0])
    assert set(history) - {0} and set(labels + 1)
    optimizer = new_optimizer(settings.training, None)
    optimizer.build(model.trainable_variables)
    compile_step(model, model.softmax_loss, optimizer)(batch)
    changed = np.flatnonzero((to_numpy(tables[0].value) != before).any(axis=1))
    assert set(changed) == set(range(1, NUM_ITEMS + 1))
    items = model.item_vectors()
    rows = to_numpy(tables[0].value)[1:]
    np.testing.assert_allclose(items, rows / np.linalg.norm(rows, axis=1)[:, None], rtol=1e-5)


def test_skip_adds_the_weighted_windows_to_the_vector():
    plain = settings_of(windows=(1, 4), similarity="inner_product")
    skipping = plain.model_copy(update={"skip": True})
    (batch,) = first_batches(plain)
    without, with_skip = model_of(plain), model_of(skipping)
    with_skip.skip.weights_of_parts.assign([2.0, -0.5])
    rows = to_numpy(with_skip.watch_table.own.table.value)
    difference = to_numpy(with_skip(batch).vectors) - to_numpy(without(batch).vectors)
    for number, known in enumerate(batch["positions"].ravel()):
        watched = rows[batch["history"][number // batch["positions"].shape[1]][:known]]
        if known:
            expected = 2 * watched[-1] - 0.5 * watched[-4:].mean(axis=0)
            np.testing.assert_allclose(difference[number], expected, atol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_successions_enter_the_loss_as_they_enter_the_served_score(similarity):
    settings = settings_of(similarity=similarity, successor_windows=(2, 3), loss="sampled_softmax")
    model, (batch,) = model_of(settings), first_batches(settings)
    kernel = model.to_successor_weights.kernel
    kernel.assign(np.random.default_rng(1).normal(size=kernel.shape))
    shape, rng = batch["positions"].shape, np.random.default_rng(0)
    successors = rng.integers(0, NUM_ITEMS + 1, (shape[0] * shape[1], 3)).astype(np.int32)
    counts = count_successors(np.sort(successors)[:, ::-1], (2, 3))
    dense = np.zeros((4, len(successors), NUM_ITEMS), np.float32)
    dense[:, counts.query, counts.code - 1] = counts.columns.T
    label = batch["labels"].ravel()
    batch |= {
        "negatives": np.arange(NUM_ITEMS, dtype=np.int32),
        "log_expected_counts": np.zeros(NUM_ITEMS, np.float32),
        "negative_successions": dense,
        "label_successions": dense[:, np.arange(len(label)), label].T.reshape(*shape, 4),
    }
    served = to_numpy(model.served_user_vectors(batch)).reshape(len(label), -1)
    weights = successor_weights(served, settings)
    logits = served @ model.item_vectors().T + np.einsum("rw,wrm->rm", weights, dense)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(label)), label]
    weight = batch["weight"].ravel()
    found, _ = model.softmax_loss(batch, training=False)
    assert float(found) == pytest.approx((losses * weight).sum() / weight.sum(), rel=1e-4)


def losses_of_steps(weights):
    """Return the losses of a few steps from given weights: run under either backend."""
    losses = []
    for loss in ("full_softmax", "sampled_softmax"):
        settings = settings_of(loss=loss, similarity="cosine", training={"learning_rate": 0.01})
        model = model_of(settings)
        write_variables(model.trainable_variables, weights)
        optimizer = new_optimizer(settings.training, None)
        optimizer.build(model.trainable_variables)
        step = compile_step(model, model.softmax_loss, optimizer)
        (batch,) = first_batches(settings)  # one shape: JAX compiles each anew
        losses += [float(to_numpy(step(batch)[0])) for _ in range(3)]
    return losses


UNDER_JAX = """
import json, sys
import keras, numpy as np
from tests.candidates.test_model import losses_of_steps
weights = np.load(sys.argv[1])
losses = losses_of_steps([weights[name] for name in weights.files])
print(json.dumps([keras.backend.backend(), losses]))
"""


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed: extra `jax`")
def test_training_steps_under_jax_give_equal_losses(tmp_path):
    model = model_of(settings_of(similarity="cosine"))
    weights = [to_numpy(variable.value) for variable in model.trainable_variables]
    np.savez(tmp_path / "weights.npz", *weights)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", UNDER_JAX, str(tmp_path / "weights.npz")],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    backend, found = json.loads(done.stdout.splitlines()[-1])
    assert backend == "jax"
    np.testing.assert_allclose(found, losses_of_steps(weights), rtol=1e-5)
