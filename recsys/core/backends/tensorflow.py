"""Gradients and compilation under TensorFlow: GradientTape in a `tf.function`."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Batch = dict[str, Any]


def compile_step(
    model: keras.Model,
    loss: Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]],
    optimizer: keras.Optimizer,
) -> Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]]:
    """Return a compiled function that takes one optimizer step on a batch."""
    trainable = model.trainable_variables

    # To trace takes seconds: lengths that vary between batches become open axes.
    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape() as tape:
            value, figures = loss(batch)
        gradients = tape.gradient(value, [variable.value for variable in trainable])
        optimizer.apply([sum_repeated_rows(gradient) for gradient in gradients], trainable)
        return value, figures

    return step


def compile_call(
    model: keras.Model, function: Callable[[Batch], tf.Tensor]
) -> Callable[[Batch], np.ndarray]:
    """Return a compiled function that computes something of a model without changing it."""
    compiled = tf.function(function)
    return lambda batch: compiled(batch).numpy()


def gather_rows(table: keras.Variable, codes: Any) -> tf.Tensor:
    """Return rows of a table, without reading the others: [N, D], int [...] -> [..., D]."""
    return tf.gather(table.value, codes)


def to_numpy(tensor: Any) -> np.ndarray:
    """Copy a tensor, or the value of a variable, to NumPy."""
    return np.array(tensor.numpy())


def sum_repeated_rows(gradient: Any) -> Any:
    """Sum the slices of a sparse gradient that belong to one row; leave all else alone.

    Keras's Adam squares each slice by itself, which is wrong where an id comes twice in a batch:
    the second moment must see the square of the sum.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, position = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, position, tf.shape(rows)[0])
    return tf.IndexedSlices(values, rows, gradient.dense_shape)
