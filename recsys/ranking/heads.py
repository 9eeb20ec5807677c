"""The heads of the ranking net: from its raw outputs to seconds and probabilities.

Raw outputs are z_e, z_m, z_c. Expected watch time is exp(z_e), since its loss is a logistic one
whose odds are the expectation; median watch time is softplus(z_m), never negative; the
probability of completion is sigmoid(z_c). Times are in units of the mean watch time.
"""

import numpy as np

LARGEST_LOGIT = 15.0
"""Of z_e: a watch of 3 million times the mean."""


def head_values(raw: np.ndarray, mean_watch_seconds: float) -> dict[str, np.ndarray]:
    """Turn raw outputs float32 [..., 3] into named float32 [...]."""
    expected = np.exp(np.clip(raw[..., 0], -LARGEST_LOGIT, LARGEST_LOGIT))
    median = np.logaddexp(0, raw[..., 1])
    # The even form of the sigmoid does not overflow.
    completion = 0.5 * (1 + np.tanh(0.5 * raw[..., 2]))
    values = {
        "expected_seconds": expected * mean_watch_seconds,
        "median_seconds": median * mean_watch_seconds,
        "completion": completion,
    }
    return {name: value.astype(np.float32, copy=False) for name, value in values.items()}
