"""Every layer and loss of the project with small inputs, for `recsys.core.gradient_check`.

`own_parts` finds what there is, `CASES` says how each is called (a name may go on behind a comma):
what is in the first and not in the second fails a test. A case returns the relative errors by
variable and input.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import get_args

import keras
import numpy as np
from keras import ops

from benchmarks import gradient_nets
from recsys.candidates import interests, policy
from recsys.core import gradient_check, losses, policy_gradient, softmax, synthetic_gradient
from recsys.core.layers import (
    activations,
    attention,
    bag,
    capsules,
    convolution,
    cross,
    dense,
    embedding,
    experts,
    gaussian,
    normalisation,
    numeric,
    prefixes,
    residual,
    shallow,
    skip,
    target_attention,
    tower,
)
from recsys.core.random import stream
from recsys.settings import LayerSettings, PolicyGradientSettings
from recsys.settings.layers import Activation

Case = Callable[[np.random.Generator], Mapping[str, float]]

PACKAGES = ("recsys.core", "recsys.candidates", "recsys.ranking", "recsys.exploration")
FUNCTION_MODULES = (
    "recsys.core.layers.",
    "recsys.core.losses",
    "recsys.core.softmax",
    "recsys.core.policy_gradient",
    "recsys.core.synthetic_gradient",
    "recsys.candidates.interests",
)
"""Whose public functions of tensors are layers or losses too."""

NOT_CHECKED = {
    "recsys.ranking.ensemble.RankingEnsemble": "never trained; each RankingModel is checked",
    "recsys.core.layers.activations.activation_of": "each name in a tower",
    "recsys.candidates.encoder.HistoryEncoder": "CandidateModel is checked with each encoder",
    "recsys.candidates.item_table.ItemTable": "CandidateModel is checked with it",
    "recsys.core.synthetic_gradient.cut": "a mixed_gradient of what GradientPredictor says",
    "recsys.core.policy_gradient.off_policy_weight": "none goes through it: policy_gradient_loss",
    "recsys.core.policy_gradient.top_k_multiplier": "none goes through it: policy_gradient_loss",
}
"""Part -> where its gradient is checked instead."""


def own_parts() -> list[str]:
    """Return the names of all layers, and of all functions of tensors beside them."""
    names = [name for module in _modules() for name in _parts_of(module)]
    return sorted(names)


def check(name: str) -> Mapping[str, float]:
    """Return the relative errors of a case."""
    with gradient_check.double_precision():
        return CASES[name](stream(0, name))


def _modules() -> Iterator[ModuleType]:
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        for info in pkgutil.walk_packages(path, f"{package}."):
            if info.name != "recsys.core.backends.jax":  # needs JAX, and has no layers
                yield importlib.import_module(info.name)


def _parts_of(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
            continue
        is_layer = inspect.isclass(value) and issubclass(value, keras.layers.Layer)
        is_function = inspect.isfunction(value) and module.__name__.startswith(FUNCTION_MODULES)
        # The alias of a tensor is Any to `inspect.signature`.
        if is_layer or (is_function and "Tensor" in inspect.getsource(value)):
            yield f"{module.__name__}.{name}"


def _layer(make: Callable[[], keras.layers.Layer], *inputs: object, **options: object) -> Case:
    """Return the case of a layer; a function among the inputs draws one."""

    def case(rng: np.random.Generator) -> Mapping[str, float]:
        arrays = [each(rng) if callable(each) else each for each in inputs]
        return gradient_check.check_layer(make(), *arrays, rng=rng, **options)

    return case


def _function(function: Callable[..., object], *inputs: object) -> Case:
    def case(rng: np.random.Generator) -> Mapping[str, float]:
        arrays = [each(rng) if callable(each) else each for each in inputs]
        return gradient_check.check_function(function, *arrays, rng=rng)

    return case


def _normal(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.standard_normal(shape)


def _positive(*shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: 0.1 + rng.random(shape)


def _relu_kernel() -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(0)


class _Attended(keras.layers.Layer):  # type: ignore[misc]
    """Relative biases through the softmax that they are for, which hides their -1e9."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = attention.RelativeBias(2, with_times=True)

    def call(self, rows: object, seconds: object) -> object:
        return ops.softmax(self.bias(rows, seconds))


class _Behaviour(keras.layers.Layer):  # type: ignore[misc]
    """The head's scores, over hidden units that are no input: their gradient ends at the head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = policy.BehaviourHead(PolicyGradientSettings(), 5, 2, seed=0)

    def call(self, codes: object) -> object:
        return self.head.logits(self.head(ops.one_hot(codes, 4)))


POSITIONS = np.array([[0, 2, 5], [1, 3, 4]])
CODES = np.array([[1, 2, 0], [3, 0, 0]])
LABELS = np.array([0, 3, 1, 3])

COUNTED = np.array([True, True, True, False, True, True])


def _tower(**changes: object) -> Case:
    """Return the case of a tower whose layers have some settings."""
    layers = LayerSettings.model_validate(changes)
    return _layer(
        lambda: tower.Tower((5, 3), 0.3, layers=layers, seed=0),
        _normal(6, 4),
        training=True,
        is_counted=COUNTED,
    )


def _block(**changes: object) -> Case:
    layers = LayerSettings.model_validate(changes)
    return _layer(
        lambda: residual.ResidualBlock(4, 0.2, layers=layers, seed=0), _normal(6, 4), training=True
    )


CASES: dict[str, Case] = {
    "recsys.core.layers.activations.gaussian": _function(activations.gaussian, _normal(3, 2)),
    "recsys.core.layers.attention.RelativeBias": _layer(
        _Attended, _normal(2, 4, 3), np.array([[0.0, 60.0, 3600.0, 9000.0], [0.0, 0.2, 1.3, 2.0]])
    ),
    "recsys.core.layers.attention.GatedBlock": _layer(
        lambda: attention.GatedBlock(4, 2, 0.2, seed=0),
        _normal(2, 3, 4),
        _normal(2, 2, 3, 3),
        training=True,
    ),
    "recsys.core.layers.attention.CausalAttention": _layer(
        lambda: attention.CausalAttention(
            4, num_blocks=1, num_heads=2, dropout=0.0, with_times=False, seed=0
        ),
        _normal(2, 4, 4),
    ),
    "recsys.core.layers.bag.prefix_window_means": _function(
        lambda rows: bag.prefix_window_means(rows, ops.convert_to_tensor(POSITIONS), (1, 3)),
        _normal(2, 5, 3),
    ),
    "recsys.core.layers.bag.masked_mean": _function(
        lambda rows: bag.masked_mean(rows, ops.convert_to_tensor(CODES)), _normal(2, 3, 4)
    ),
    "recsys.core.layers.capsules.InterestCapsules": _layer(
        lambda: capsules.InterestCapsules(3, num_interests=2, num_rounds=3, seed=0),
        _normal(2, 5, 3),
        POSITIONS,
    ),
    "recsys.core.layers.capsules.squash": _function(capsules.squash, _normal(4, 3)),
    "recsys.core.layers.convolution.PrefixConvolution": _layer(
        lambda: convolution.PrefixConvolution(
            3, length=4, heights=(1, 3), num_filters=2, num_vertical=2, seed=0
        ),
        _normal(2, 5, 3),
    ),
    "recsys.core.layers.cross.LowRankCross": _layer(
        lambda: cross.LowRankCross(2, 2, seed=0), _normal(5, 4)
    ),
    "recsys.core.layers.dense.Dense": _layer(
        lambda: dense.Dense(3, _relu_kernel(), activation=ops.tanh), _normal(2, 5, 4)
    ),
    "recsys.core.layers.dense.low_matmul": _function(
        lambda left, right: dense.low_matmul(left, right, "float32"), _normal(3, 4), _normal(4, 2)
    ),
    "recsys.core.layers.embedding.Embedding": _layer(
        lambda: embedding.Embedding(5, 3, seed=0), CODES
    ),
    "recsys.core.layers.experts.GatedExperts": _layer(
        lambda: experts.GatedExperts((4, 3), 3, 2, 0.2, gate_dropout=0.3, seed=0),
        _normal(6, 5),
        training=True,
    ),
    "recsys.core.layers.gaussian.GaussianSample": _layer(
        lambda: gaussian.GaussianSample(seed=0), _normal(4, 3), _normal(4, 3), training=True
    ),
    "recsys.core.layers.numeric.QuantileRamps": _layer(
        lambda: numeric.QuantileRamps(np.linspace(0, 1, 6)[None].repeat(3, axis=0)), _positive(4, 3)
    ),
    "recsys.core.layers.numeric.powers": _function(numeric.powers, _positive(3, 2)),
    "recsys.core.layers.numeric.split_missing": _function(
        lambda values: numeric.split_missing(values)[0], _normal(3, 2)
    ),
    "recsys.core.layers.prefixes.at_prefixes": _function(
        lambda states: prefixes.at_prefixes(states, ops.convert_to_tensor(POSITIONS)),
        _normal(2, 6, 3),
    ),
    "recsys.core.layers.shallow.ShallowTower": _layer(
        lambda: shallow.ShallowTower((4, 4, 4), 2, 0.3, seed=0), CODES, training=True
    ),
    "recsys.core.layers.skip.WeightedParts": _layer(lambda: skip.WeightedParts(3), _normal(4, 6)),
    "recsys.core.layers.target_attention.TargetAttention": _layer(
        lambda: target_attention.TargetAttention(4, 2, seed=0),
        _normal(2, 3, 5),
        _normal(2, 4, 3),
        _normal(2, 4, 2),
        np.array([[1, 1, 0, 1], [0, 0, 0, 0]]),
    ),
    "recsys.core.layers.normalisation.Normaliser": _layer(
        lambda: normalisation.Normaliser("batch"), _normal(6, 3), training=True, is_counted=COUNTED
    ),
    "recsys.core.layers.normalisation.Normaliser, of layers": _layer(
        lambda: normalisation.Normaliser("layer"), _normal(6, 3)
    ),
    "recsys.core.layers.residual.ResidualBlock": _block(residual="v1", normalisation="batch"),
    "recsys.core.layers.residual.ResidualBlock, v2": _block(residual="v2", activation="tanh"),
    "recsys.core.layers.residual.ResidualBlock, bottleneck": _block(residual="bottleneck"),
    "recsys.core.layers.tower.HiddenLayer": _layer(
        lambda: tower.HiddenLayer(
            3, 0.0, layers=LayerSettings(), number=0, seed=0, precision="float32"
        ),
        _normal(6, 4),
    ),
    "recsys.core.layers.tower.Tower": _tower(),
    "recsys.core.layers.tower.Tower, residual": _tower(residual="v2", normalisation="layer"),
    **{
        f"recsys.core.layers.tower.Tower, {name}": _tower(activation=name)
        for name in get_args(Activation)
    },
    "recsys.core.losses.weighted_mean": _function(
        losses.weighted_mean, _normal(4), np.array([0.0, 1.0, 1.0, 1.0])
    ),
    "recsys.core.losses.binary_cross_entropy": _function(
        losses.binary_cross_entropy, _normal(4), _positive(4)
    ),
    "recsys.core.losses.expected_watch_time": _function(
        losses.expected_watch_time, _normal(4), _positive(4)
    ),
    "recsys.core.losses.weighted_logistic": _function(
        losses.weighted_logistic, _normal(4), np.array([0.0, 1.0, 1.0, 0.0]), _positive(4)
    ),
    "recsys.core.losses.pinball": _function(
        lambda predictions, targets: losses.pinball(predictions, targets, 0.3),
        _normal(5),
        _normal(5),
    ),
    "recsys.core.losses.absolute_error": _function(losses.absolute_error, _normal(4), _normal(4)),
    "recsys.core.losses.ordinal": _function(
        lambda logits: losses.ordinal(
            logits, np.array([0.5, 1.0, 2.0]), ops.convert_to_tensor(np.array([0.0, 0.7, 3.0, 1.5]))
        ),
        _normal(4, 3),
    ),
    "recsys.core.losses.gaussian_negative_log_likelihood": _function(
        losses.gaussian_negative_log_likelihood, _normal(4), _positive(4), _normal(4)
    ),
    "recsys.core.losses.negative_sampling": _function(
        lambda label, negatives: losses.negative_sampling(
            label, negatives, ops.convert_to_tensor(np.array([[True, False], [False, False]]))
        ),
        _normal(2),
        _normal(2, 2),
    ),
    "recsys.core.losses.multinomial": _function(losses.multinomial, _normal(3, 4), _positive(3, 4)),
    "recsys.core.losses.divergence_from_standard_normal": _function(
        losses.divergence_from_standard_normal, _normal(3, 2), _normal(3, 2)
    ),
    "recsys.core.softmax.chunked_partition": _function(
        lambda vectors, rows: softmax.chunked_partition(
            vectors,
            rows,
            ops.convert_to_tensor(np.array([1.0, 0.5, 0.0, 2.0, 1.0])),
            num_chunks=2,
        ),
        _normal(5, 3),
        _normal(7, 3),
    ),
    "recsys.core.softmax.sampled_softmax": _function(
        lambda own, others, log_counts: softmax.sampled_softmax(
            own,
            others,
            ops.convert_to_tensor(LABELS),
            ops.convert_to_tensor(np.array([3, 5, 6])),
            log_counts,
        ),
        _normal(4),
        _normal(4, 3),
        _normal(3),
    ),
    "recsys.candidates.model.CandidateModel": lambda rng: gradient_nets.check_candidate_net(rng),
    "recsys.candidates.model.CandidateModel, sampled": lambda rng: (
        gradient_nets.check_candidate_net(
            rng, loss="sampled_softmax", similarity="cosine", encoder="gru"
        )
    ),
    **{
        f"recsys.candidates.model.CandidateModel, {encoder}": partial(
            gradient_nets.check_candidate_net, encoder=encoder, filter_length=4, watch_times=True
        )
        for encoder in ("lstm", "convolution", "attention", "capsules")
    },
    "recsys.candidates.skip_gram.SkipGram": gradient_nets.check_skip_gram,
    "recsys.candidates.auto_encoder.AutoEncoder": gradient_nets.check_auto_encoder,
    "recsys.candidates.auto_encoder.Level": partial(gradient_nets.check_level, number=0),
    "recsys.candidates.auto_encoder.Level, second": partial(gradient_nets.check_level, number=1),
    "recsys.candidates.variational.VariationalAutoEncoder": gradient_nets.check_variational,
    # Where the cap is reached the weight is constant, and differences see no more than it.
    "recsys.core.policy_gradient.policy_gradient_loss": _function(
        lambda log_policy, rewards: policy_gradient.policy_gradient_loss(
            log_policy, ops.full_like(log_policy, -20.0), rewards, top_k=1, cap=2.0
        ),
        lambda rng: -_positive(4)(rng),
        _positive(4),
    ),
    "recsys.core.synthetic_gradient.GradientPredictor": _layer(
        lambda: synthetic_gradient.GradientPredictor(5, seed=0), _normal(3, 4), _normal(3, 2)
    ),
    # Only a share of 1 is the gradient of what is computed: that is what a cut is for.
    "recsys.core.synthetic_gradient.mixed_gradient": _function(
        lambda states: synthetic_gradient.mixed_gradient(
            states, ops.zeros_like(states), true_share=1.0
        ),
        _normal(3, 2),
    ),
    "recsys.core.synthetic_gradient.loss_ahead": _function(
        lambda states: synthetic_gradient.loss_ahead(
            states, LABELS, lambda *_: ops.full_like(states, 0.3)
        ),
        _normal(3, 2),
    ),
    "recsys.candidates.policy.BehaviourHead": _layer(_Behaviour, np.array([0, 3, 1])),
    "recsys.candidates.interests.by_interest": _function(
        lambda rows: interests.by_interest(rows, 3), _normal(2, 3, 2)
    ),
    "recsys.candidates.interests.nearest_interest": _function(
        lambda vectors: interests.nearest_interest(
            vectors, ops.convert_to_tensor(np.linspace(-1.0, 1.0, 6).reshape(3, 2)), 2
        ),
        _normal(6, 2),
    ),
    "recsys.ranking.model.RankingModel": lambda rng: gradient_nets.check_ranking_net(rng),
    "recsys.exploration.neural_process.NeuralProcess": gradient_nets.check_neural_process,
}
