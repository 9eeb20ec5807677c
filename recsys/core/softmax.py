"""Softmax losses over large catalogues: exact in chunks, and estimated from negatives.

References:
    Bengio & Senecal 2008, Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model (eq. 10: the partition function estimated by a sample).
    Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations
    (the logQ correction).
    Khrylchenko et al. 2025, Correcting the LogQ Correction (the positive is not sampled).
"""

from typing import Any

from keras import ops

from recsys.core.backends import Tensor
from recsys.core.losses import HIDDEN_LOGIT

CHUNK_LOGITS = 2_000_000
"""Logits held at a time: what stays near the cores."""
MAX_CHUNKS = 64


def chunked_partition(
    vectors: Tensor,
    rows: Tensor,
    weights: Tensor,
    *,
    num_chunks: int,
    precision: str = "float32",
) -> Tensor:
    """Return sum_r weight_r log sum_j exp(v_r . w_j) without ever holding all R x N logits.

    The gradient is computed on the way, chunk by chunk: with p = softmax(V W^T), that of V is
    weight p W, that of W is p^T (weight V). Three products in all, as many as without chunks.

    Args:
        vectors: float [R, D], V.
        rows: float [N, D], W.
        weights: float [R]; gets no gradient.
        num_chunks: Parts of R, worked off one after another.
        precision: Of the products, that of the vectors unless given. `bfloat16` is faster where the
            processor has instructions for it. Sums and exponentials stay in that of the vectors.
    """

    @ops.custom_gradient  # type: ignore[untyped-decorator]
    def summed(vectors: Tensor, rows: Tensor, weights: Tensor) -> tuple[Tensor, Any]:
        low = vectors.dtype if precision == "float32" else precision
        low_rows = ops.cast(rows, low)
        total, of_vectors, of_rows = 0.0, [], 0.0
        for own, weight in zip(
            _chunks(vectors, num_chunks), _chunks(weights, num_chunks), strict=True
        ):
            low_own = ops.cast(own, low)
            logits = ops.cast(ops.matmul(low_own, ops.transpose(low_rows)), vectors.dtype)  # [r, N]
            largest = ops.max(logits, axis=1, keepdims=True)
            exponentials = ops.exp(logits - largest)
            partition = ops.sum(exponentials, axis=1, keepdims=True)
            total += ops.sum(weight * (ops.log(partition) + largest)[:, 0])
            shares = ops.cast(exponentials * (weight[:, None] / partition), low)
            of_vectors.append(ops.cast(ops.matmul(shares, low_rows), vectors.dtype))
            of_rows += ops.cast(ops.matmul(ops.transpose(shares), low_own), vectors.dtype)
        gradient = ops.concatenate(of_vectors)[: ops.shape(vectors)[0]]

        def gradients(upstream: Tensor, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
            return upstream * gradient, upstream * of_rows, ops.zeros_like(weights)

        return total, gradients

    return summed(vectors, rows, weights)


def sampled_softmax(
    label_logits: Tensor,
    negative_logits: Tensor,
    labels: Tensor,
    negatives: Tensor,
    log_expected_counts: Tensor,
    *,
    label_log_expected_counts: Tensor | None = None,
    is_hidden: Tensor | None = None,
) -> Tensor:
    """Cross-entropy whose partition function is estimated from sampled negatives.

    log(exp(s_y) + sum_{j in sample, j != y} exp(s_j - log E_j)) - s_y, with E_j how often j is
    expected in the sample: the sum is an unbiased estimate of what all other classes have. The
    label itself is not sampled, so it has no correction; where the sample holds it (an
    accidental hit) it is hidden. Its gradient is that of Khrylchenko et al.'s corrected loss,
    stop(1 - p) (log sum_{j != y} exp(s_j - log E_j) - s_y), p the label's probability.

    Args:
        label_logits: float [R].
        negative_logits: float [R, M], of the negatives that all rows share.
        labels: int [R].
        negatives: int [M].
        log_expected_counts: float [M], log E_j of each negative; zeros for no correction.
        label_log_expected_counts: float [R], log E_y: corrects the label's logit too, as Yi et
            al. do for in-batch negatives. Biased: see Khrylchenko et al.
        is_hidden: bool [R, M], negatives that are no class of a row.

    Returns:
        float [R].
    """
    if label_log_expected_counts is not None:
        label_logits = label_logits - label_log_expected_counts
    corrected = negative_logits - log_expected_counts
    is_hit = ops.equal(labels[:, None], negatives[None, :])
    if is_hidden is not None:
        is_hit = ops.logical_or(is_hit, is_hidden)
    corrected = ops.where(is_hit, HIDDEN_LOGIT, corrected)
    others = ops.logsumexp(corrected, axis=1)
    return ops.logaddexp(others, label_logits) - label_logits


def _chunks(values: Tensor, num_chunks: int) -> list[Tensor]:
    """Cut [R, ...] into parts of equal length, the last filled up with zeros."""
    count = ops.shape(values)[0]
    length = (count + num_chunks - 1) // num_chunks
    missing = num_chunks * length - count
    padded = ops.pad(values, [[0, missing]] + [[0, 0]] * (len(values.shape) - 1))
    return [padded[n * length : (n + 1) * length] for n in range(num_chunks)]
