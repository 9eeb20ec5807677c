"""Gradients and compilation under TensorFlow: GradientTape in a `tf.function`."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Batch = dict[str, Any]

NUM_PARTS = 4
"""In which the rows of a sparse gradient are summed: each runs on one core."""


def compile_step(
    model: keras.Model,
    loss: Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]],
    optimizer: Any,
    *,
    has_norm: bool,
) -> Callable[[Batch], tuple[tf.Tensor, dict[str, tf.Tensor]]]:
    """Return a compiled function that takes one optimizer step on a batch."""
    trainable = model.trainable_variables
    is_summing = getattr(optimizer, "sums_repeated_rows", False)

    # To trace takes seconds: lengths that vary between batches become open axes.
    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        with tf.GradientTape() as tape:
            value, figures = loss(batch)
        gradients = tape.gradient(value, [variable.value for variable in trainable])
        if has_norm:
            summed = [gradient_values(sum_repeated_rows(gradient)) for gradient in gradients]
            figures = {**figures, "gradient_norm": norm_of(summed)}
        if not is_summing:
            gradients = [sum_repeated_rows(gradient) for gradient in gradients]
        optimizer.apply(gradients, trainable)
        return value, figures

    return step


def compile_call(
    model: keras.Model, function: Callable[[Batch], tf.Tensor]
) -> Callable[[Batch], np.ndarray]:
    """Return a compiled function that computes something of a model without changing it."""
    compiled = tf.function(function)
    return lambda batch: compiled(batch).numpy()


def gradients_of(
    function: Callable[[Batch], tf.Tensor],
    variables: Sequence[keras.Variable],
    *,
    is_compiled: bool,
) -> Callable[[Batch], tuple[float, list[np.ndarray]]]:
    """Return a function that gives a scalar of a batch, and its dense gradients."""
    values = [variable.value for variable in variables]

    def differentiate(batch: Batch) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            value = function(batch)
        gradients = tape.gradient(value, values, unconnected_gradients="zero")
        return value, [tf.convert_to_tensor(gradient) for gradient in gradients]

    ready = tf.function(differentiate, reduce_retracing=True) if is_compiled else differentiate

    def differentiate_now(batch: Batch) -> tuple[float, list[np.ndarray]]:
        value, gradients = ready(batch)
        return float(value), [gradient.numpy() for gradient in gradients]

    return differentiate_now


def double_precision() -> AbstractContextManager[None]:
    """Do nothing: TensorFlow holds float64 as it is."""
    return nullcontext()


def gather_rows(table: keras.Variable, codes: Any) -> tf.Tensor:
    """Return rows of a table, without reading the others: [N, D], int [...] -> [..., D]."""
    return tf.gather(table.value, codes)


def update_rows(
    table: keras.Variable,
    slots: Sequence[keras.Variable],
    gradient: tf.Tensor | tf.IndexedSlices,
    rule: Callable[..., tuple[tf.Tensor, Sequence[tf.Tensor]]],
) -> None:
    """Change the rows that a gradient has, all of them where it is dense, by a rule.

    Slices of a sparse gradient that belong to one row are summed first.
    """
    if _is_small(gradient):
        gradient = _dense(gradient)
    if not isinstance(gradient, tf.IndexedSlices):
        change, new_values = rule(gradient, [slot.value for slot in slots])
        for slot, value in zip(slots, new_values, strict=True):
            slot.value.assign(value)
        table.value.assign_sub(change)
        return
    # Gather and scatter on the resource itself: to read a variable's value copies the table.
    # All is gathered before any is scattered, or TensorFlow would take part after part.
    parts = [
        (rows, *rule(values, [tf.gather(slot.value, rows) for slot in slots]))
        for rows, values in _summed_parts(gradient)
    ]
    for rows, change, new_values in parts:
        for slot, value in zip(slots, new_values, strict=True):
            slot.value.scatter_update(tf.IndexedSlices(value, rows))
        table.value.scatter_sub(tf.IndexedSlices(change, rows))


def gradient_values(gradient: Any) -> Any:
    """Return the numbers of a gradient, those of its slices where it is sparse."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def with_gradient_values(gradient: Any, values: Any) -> Any:
    """Return a gradient with other numbers in the same places."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return values


def norm_of(values: Sequence[Any]) -> tf.Tensor:
    """Return the length of all values taken together; None counts for nothing."""
    return tf.linalg.global_norm([each for each in values if each is not None])


def to_numpy(tensor: Any) -> np.ndarray:
    """Copy a tensor, or the value of a variable, to NumPy."""
    return np.array(tensor.numpy())


def sum_repeated_rows(gradient: Any) -> Any:
    """Sum the slices of a sparse gradient that belong to one row; leave all else alone.

    A rule that squares each slice by itself, as Keras's Adam does, is wrong where an id comes twice
    in a batch: the second moment must see the square of the sum.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    if _is_small(gradient):
        return _dense(gradient)
    order, rows, is_first = _sorted_rows(gradient)
    position = tf.cumsum(tf.cast(is_first, tf.int32)) - 1
    values = tf.sparse.segment_sum(gradient.values, order, position)
    return tf.IndexedSlices(values, tf.boolean_mask(rows, is_first), gradient.dense_shape)


def _is_small(gradient: tf.Tensor | tf.IndexedSlices) -> bool:
    """Tell whether a sparse gradient has at least as many slices as its table has rows.

    Most rows then have one, and to add slices where they belong takes a third of the time of
    sorting them. Unknown sizes count as large.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return False
    num_rows, num_slices = tf.get_static_value(gradient.dense_shape), gradient.indices.shape[0]
    return num_rows is not None and num_slices is not None and num_rows[0] <= num_slices


def _dense(gradient: tf.IndexedSlices) -> tf.Tensor:
    num_rows = tf.get_static_value(gradient.dense_shape)[0]
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, num_rows)


def _sorted_rows(gradient: tf.IndexedSlices) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the order of the slices by row, their rows, and whether each is the first of its row.

    On wide tables this is faster than `tf.unique` (docs/decisions/0006).
    """
    order = tf.argsort(gradient.indices, stable=True)
    rows = tf.gather(gradient.indices, order)
    return order, rows, tf.concat([[True], rows[1:] != rows[:-1]], axis=0)


def _summed_parts(gradient: tf.IndexedSlices) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Return distinct rows and the sums of their slices, in parts that have no row in common."""
    order, rows, is_first = _sorted_rows(gradient)
    distinct = tf.boolean_mask(rows, is_first)
    before = tf.concat([[0], tf.cumsum(tf.cast(is_first, tf.int32))], axis=0)  # rows that began
    length = tf.shape(rows)[0]
    begins = [length * part // NUM_PARTS for part in range(NUM_PARTS)]
    cuts = [tf.searchsorted(rows, rows[begin : begin + 1])[0] for begin in begins]
    parts = []
    for start, end in itertools.pairwise([*cuts, length]):
        first, last = before[start], before[end]
        position = before[start + 1 : end + 1] - 1 - first
        values = tf.sparse.segment_sum(gradient.values, order[start:end], position)
        parts.append((distinct[first:last], values))
    return parts
