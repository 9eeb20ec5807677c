"""Bags: means of embedded sequences, order discarded (Covington et al. 2016, section 3.2)."""

from keras import ops

from recsys.core.backends import Tensor


def prefix_window_means(rows: Tensor, positions: Tensor, windows: tuple[int, ...]) -> Tensor:
    """Average the newest rows of many prefixes of a sequence, in one pass over it.

    One product of the rows with a matrix that has 1 / min(p, w) where p - w <= t < p, for each
    prefix length p and window w; a prefix of no rows has the zero vector. Running sums would
    need fewer operations, but are not spread over cores, and lose digits.

    Args:
        rows: float [B, T, D], oldest first.
        positions: int [B, P], lengths of the prefixes, 0 to T.
        windows: Each adds D columns: the mean of the newest `window` rows of the prefix.

    Returns:
        float [B, P, len(windows) * D].
    """
    end = positions[:, :, None, None]  # [B, P, 1, 1]
    window = ops.convert_to_tensor(windows, positions.dtype)[:, None]  # [W, 1]
    time = ops.arange(ops.shape(rows)[1], dtype=positions.dtype)  # [T]
    is_inside = ops.logical_and(time < end, time >= end - window)  # [B, P, W, T]
    count = ops.cast(ops.maximum(ops.minimum(end, window), 1), rows.dtype)
    shares = ops.cast(is_inside, rows.dtype) / count
    shape = ops.shape(shares)
    shares = ops.reshape(shares, (shape[0], shape[1] * len(windows), shape[3]))
    means = ops.matmul(shares, rows)  # [B, P * W, D]
    return ops.reshape(means, (shape[0], shape[1], len(windows) * rows.shape[-1]))


def masked_mean(rows: Tensor, codes: Tensor) -> Tensor:
    """Average the rows whose code is known: float [..., S, D], int [..., S] -> [..., D]."""
    count = ops.sum(ops.cast(ops.not_equal(codes, 0), rows.dtype), axis=-1, keepdims=True)
    return ops.sum(rows, axis=-2) / ops.maximum(count, 1.0)
