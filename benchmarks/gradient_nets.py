"""The whole nets with small random batches: their losses' gradients by every variable."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from recsys.candidates.auto_encoder import AutoEncoder
from recsys.candidates.model import CandidateModel, CandidateSizes
from recsys.candidates.skip_gram import SkipGram
from recsys.candidates.variational import VariationalAutoEncoder
from recsys.core import gradient_check
from recsys.exploration.features import target_numeric, watch_numeric
from recsys.exploration.neural_process import NeuralProcess
from recsys.exploration.neural_process import Scales as OutcomeScales
from recsys.ranking.heads import fit_heads
from recsys.ranking.model import RankingModel, Scales, quantiles
from recsys.ranking.recent import NUM_AGE_CODES, NUM_OUTCOME_CODES
from recsys.ranking.spec import FeatureSpec, Priors
from recsys.ranking.tables import TableSize, table_sizes
from recsys.settings import CandidateSettings, ExplorationSettings, RankingSettings

NUM_ITEMS, NUM_TOKENS, NUM_CODES = 7, 5, 4
NUM_ROWS, NUM_EVENTS = 6, 3

Batch = dict[str, Any]


def check_candidate_net(rng: np.random.Generator, **changes: Any) -> Mapping[str, float]:
    """Check the softmax of a candidate net with every input; `changes` are settings of it."""
    common = {
        "windows": (1, 3),
        "embedding_width": 4,
        "tower": (5,),
        "context": ("country",),
        "context_width": 2,
        "age": True,
        "searches": True,
        "example_age": True,
        "item_feature_buckets": 6,
        "skip": True,
    }
    settings = CandidateSettings.model_validate(common | changes)
    features = rng.integers(0, 7, (NUM_ITEMS, 2)).astype(np.int32)
    sizes = CandidateSizes(NUM_ITEMS, NUM_TOKENS, {"country": NUM_CODES}, features)
    model = CandidateModel(settings, sizes, seed=0)
    batch = candidate_batch(rng)
    return _check(model, lambda: model.softmax_loss(batch)[0], rng)


def candidate_batch(rng: np.random.Generator) -> Batch:
    """Return two histories of five watches with three labels each, and four negatives."""
    shape = (2, 3)
    return _tensors(
        {
            "history": rng.integers(1, NUM_ITEMS + 1, (2, 5)),
            "positions": np.array([[0, 2, 5], [1, 3, 4]], np.int32),
            "search_tokens": rng.integers(0, NUM_TOKENS, (*shape, 3)),
            "context": rng.integers(0, NUM_CODES, (*shape, 1)),
            "age": np.where(rng.random(shape) < 0.3, np.nan, 30.0),
            "example_age": 0.1 + rng.random(shape),
            "watch_seconds": np.cumsum(rng.random((2, 5)), axis=1) - 5,
            "labels": rng.integers(0, NUM_ITEMS, shape),
            "weight": np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]),
            "negatives": np.array([0, 2, 5, 6], np.int32),
            "log_expected_counts": rng.standard_normal(4),
        }
    )


def check_skip_gram(rng: np.random.Generator) -> Mapping[str, float]:
    """Check the loss of pairs: one of them is padding, one negative is what it is told from."""
    net = SkipGram(NUM_ITEMS, 3, seed=0)
    batch = _tensors(
        {
            "item": np.array([0, 3, 6], np.int32),
            "near": np.array([1, 1, 2], np.int32),
            "negatives": np.array([[1, 4], [5, 5], [0, 6]], np.int32),
            "weight": np.array([1.0, 1.0, 0.0]),
        }
    )
    return _check(net, lambda: net.loss_of(batch)[0], rng)


def check_auto_encoder(rng: np.random.Generator) -> Mapping[str, float]:
    """Check all layers together."""
    net = AutoEncoder(NUM_ITEMS, (4, 3), 0.3, seed=0)
    batch = _watch_batch(rng)
    return _check(net, lambda: net.loss_of(batch)[0], rng)


def check_level(rng: np.random.Generator, number: int) -> Mapping[str, float]:
    """Check a layer that is trained alone."""
    level = AutoEncoder(NUM_ITEMS, (4, 3), 0.3, seed=0).level(number)
    batch = _watch_batch(rng)
    return _check(level, lambda: level.loss_of(batch)[0], rng)


def check_variational(rng: np.random.Generator) -> Mapping[str, float]:
    """Check the negative lower bound, past a code that is drawn."""
    net = VariationalAutoEncoder(NUM_ITEMS, 4, 3, 0.3, seed=0)
    batch = _watch_batch(rng)
    return _check(net, lambda: net.loss_of(batch)[0], rng)


def _watch_batch(rng: np.random.Generator) -> Batch:
    """Return what three users watched, one of them padding."""
    watched = rng.integers(0, 2, (3, NUM_ITEMS)).astype(float)
    weight = np.array([1.0, 1.0, 0.0])
    return _tensors({"watched": watched, "weight": weight, "divergence_weight": np.array(0.2)})


def check_ranking_net(rng: np.random.Generator, **changes: Any) -> Mapping[str, float]:
    """Check the sum of all heads' losses but the curve's, whose mean stops its gradient."""
    weights = dict.fromkeys(("median", "click", "like", "percentile"), {"weight": 0.5})
    common = {
        "hidden": (5, 4),
        "num_experts": 2,
        "attention_width": 4,
        "cross_rank": 2,
        "like_column": "liked",
        "pairwise_weight": 0.5,
        "dropout": 0.2,
        "heads": weights | {"curve": {"weight": 0.0}},
    }
    settings = RankingSettings.model_validate(common | changes)
    model, batch = new_ranking_net(settings, rng)
    tensors = _tensors(batch)
    return _check(model, lambda: model.loss_of(tensors)[0], rng)


def new_ranking_net(
    settings: RankingSettings, rng: np.random.Generator
) -> tuple[RankingModel, Batch]:
    """Return a net over a few inputs, and a training batch for it."""
    spec = _spec(settings)
    heads = fit_heads(
        tuple(settings.heads.on()),
        rng.exponential(4.0, 200),
        rng.uniform(1, 90, 200),
        num_thresholds=3,
        num_duration_groups=2,
    )
    batch = ranking_batch(spec, rng)
    scales = Scales(
        quantiles(batch["user_numeric"], settings.num_quantiles),
        quantiles(batch["candidate_numeric"][:, 0], settings.num_quantiles),
    )
    sizes = table_sizes(spec, scale=1.0, max_width=4, has_item_ids=True)
    return RankingModel(settings, spec, scales, heads, sizes, seed=0), batch


def ranking_batch(spec: FeatureSpec, rng: np.random.Generator) -> Batch:
    """Return features and labels of some impressions, numbers in single precision."""
    columns = (len(spec.item_categorical), len(spec.item_bags))
    candidates, events = (NUM_ROWS, 1), (NUM_ROWS, spec.recent_length)

    def items(prefix: str, shape: tuple[int, ...]) -> Batch:
        return {
            f"{prefix}_item": rng.integers(0, spec.num_item_codes, shape),
            f"{prefix}_categorical": rng.integers(0, NUM_CODES, (*shape, columns[0])),
            f"{prefix}_bags": rng.integers(0, NUM_CODES, (*shape[:1], shape[1], columns[1], 2)),
        }

    labels = {"watch_time": rng.exponential(1.0, NUM_ROWS), "percentile": rng.random(NUM_ROWS)}
    for name in ("completed", "clicked", "liked"):
        labels[name] = rng.integers(0, 2, NUM_ROWS).astype(float)
        labels[f"{name}_weight"] = np.ones(NUM_ROWS)
    whole = {
        "user_categorical": rng.integers(0, NUM_CODES, (NUM_ROWS, len(spec.user_categorical))),
        "user_numeric": rng.random((NUM_ROWS, len(spec.user_numeric))),
        "history": rng.integers(0, spec.num_item_codes, (NUM_ROWS, 4)),
        "candidate_numeric": rng.random((*candidates, len(spec.item_numeric))),
        "bias_categorical": rng.integers(0, NUM_CODES, (NUM_ROWS, 1)),
        "recent_outcome": rng.integers(0, NUM_OUTCOME_CODES, events),
        "recent_age": rng.integers(0, NUM_AGE_CODES, events),
        "user": np.array([0, 0, 0, 1, 1, 1], np.int32),
        "weight": np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
        **items("candidate", candidates),
        **items("recent", events),
        **labels,
    }
    return {name: values.astype(_single(values)) for name, values in whole.items()}


def check_neural_process(rng: np.random.Generator) -> Mapping[str, float]:
    """Check the losses of a neural process over contexts of three watches."""
    spec = _spec(RankingSettings())
    numbers, known = len(target_numeric(spec)), len(watch_numeric(spec))
    shape = (NUM_ROWS, NUM_EVENTS)
    batch = ranking_batch(spec, rng)
    targets = {name.replace("candidate", "target"): batch[name] for name in batch}
    contexts = {name.replace("recent", "context"): batch[name] for name in batch}
    batch = {
        **{name: values for name, values in targets.items() if name.startswith("target")},
        **{name: values for name, values in contexts.items() if name.startswith("context")},
        "request": batch["user_categorical"],
        "target_numeric": rng.random((NUM_ROWS, 1, numbers)),
        "context_numeric": rng.random((*shape, known)),
        "context_outcome": rng.random(shape),
        "context_is_watch": rng.integers(0, 2, shape).astype(float),
        "context_known": rng.integers(0, 2, shape).astype(float),
        "outcome": rng.random(NUM_ROWS),
        "completed": rng.integers(0, 2, NUM_ROWS).astype(float),
        "completed_weight": np.ones(NUM_ROWS),
        "weight": np.ones(NUM_ROWS),
    }
    scales = OutcomeScales(quantiles(batch["target_numeric"][:, 0], 4), 1.0, 2.0)
    spaces = spec.user_categorical | spec.item_categorical | spec.item_bags
    spaces |= {"item_id": spec.num_item_codes}
    sizes = {name: TableSize(number, 2) for name, number in spaces.items()}
    settings = ExplorationSettings(encoder=(4,), decoder=(4,))
    model = NeuralProcess(settings, spec, scales, sizes, seed=0)
    tensors = _tensors(batch)
    return _check(model, lambda: model.loss_of(tensors)[0], rng)


def _check(model: keras.Model, loss: Any, rng: np.random.Generator) -> Mapping[str, float]:
    for variable in model.trainable_variables:
        variable.assign_add(0.1 * rng.standard_normal(variable.shape))
    return gradient_check.check_gradients(
        loss,
        model.trainable_variables,
        state=model.non_trainable_variables,
        is_compiled=True,
        rng=rng,
    )


def _spec(settings: RankingSettings) -> FeatureSpec:
    return FeatureSpec(
        user_categorical={"country": NUM_CODES},
        item_categorical={"channel_id": NUM_CODES},
        item_bags={"topics": NUM_CODES},
        bias_categorical={"position": NUM_CODES},
        user_numeric=("user_watches",),
        item_numeric=("duration_seconds", "item_impressions", "item_age_seconds"),
        num_item_codes=NUM_ITEMS,
        history_length=4,
        recent_length=NUM_EVENTS,
        retrieval_trained=False,
        priors=Priors(0.1, 10.0, 0.2),
    )


def _single(values: np.ndarray) -> type:
    return np.float32 if np.issubdtype(values.dtype, np.floating) else np.int32


def _tensors(batch: Batch) -> Batch:
    """Make tensors, floats in float64."""
    return {
        name: ops.convert_to_tensor(
            values.astype(np.float64 if np.issubdtype(values.dtype, np.floating) else np.int32)
        )
        for name, values in batch.items()
    }
