"""Several interests of a user: rows that stand one after another, K for each prefix."""

from keras import ops

from recsys.core.backends import Tensor


def by_interest(rows: Tensor, num_interests: int) -> Tensor:
    """Give each interest of a prefix the prefix's row: [B, P, F] -> [B, P * K, F]."""
    if num_interests == 1:
        return rows
    shape, width = ops.shape(rows), rows.shape[-1]
    repeated = ops.broadcast_to(rows[:, :, None], (shape[0], shape[1], num_interests, width))
    return ops.reshape(repeated, (shape[0], shape[1] * num_interests, width))


def nearest_interest(vectors: Tensor, rows: Tensor, num_interests: int) -> Tensor:
    """Return the interest of each user that their label's row is nearest to.

    The others learn nothing from the label (Cen et al. 2020, equation 6): when it is served, an
    item scores by the nearest interest too.

    Args:
        vectors: float [R * K, D].
        rows: float [R, D], of the labels; get no gradient from the choice.
        num_interests: K.

    Returns:
        float [R, D].
    """
    vectors = ops.reshape(vectors, (-1, num_interests, vectors.shape[-1]))  # [R, K, D]
    nearest = ops.argmax(ops.sum(vectors * rows[:, None], axis=-1), axis=-1)
    chosen = ops.one_hot(nearest, num_interests, dtype=vectors.dtype)
    return ops.sum(vectors * chosen[..., None], axis=1)
