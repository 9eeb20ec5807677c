"""What the crowd says of items, added to the logits of a user: counts with learned weights."""

from collections.abc import Iterator

from keras import ops

from recsys.core.backends import Batch, Tensor


def crowd_logits(
    popularity_weights: Tensor | None, successor_weights: Tensor | None, batch: Batch
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what each column of counts adds to the logits of label and negatives: [R], [R, M].

    Args:
        popularity_weights: float [R, K]; None without any.
        successor_weights: float [R, W]; None without any.
        batch: See `recsys.candidates.model`.
    """
    for column, weights in _columns(popularity_weights):
        counts = batch["negative_popularity"][..., column]  # [G, M]
        step = ops.reshape(batch["popularity_step"], (-1,))
        of_label = ops.reshape(batch["label_popularity"][..., column], (-1,))
        yield weights * of_label, weights[:, None] * ops.take(counts, step, axis=0)
    for column, weights in _columns(successor_weights):
        of_label = ops.reshape(batch["label_successions"][..., column], (-1,))
        of_negatives = batch["negative_successions"][column]
        yield weights * of_label, weights[:, None] * of_negatives


def _columns(weights: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """Yield the columns of weights [R, K] with their numbers; nothing for none."""
    if weights is not None:
        for number in range(weights.shape[1]):
            yield number, weights[:, number]
