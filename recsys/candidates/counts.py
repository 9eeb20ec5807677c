"""Counts as inputs of a score that is linear in them: log(1 + n), and whether there is any.

The step from none to one is a kind of its own. Most items of a catalogue have no watch in a window,
and together they hold much of a softmax whose only column is the logarithm: likelihood then leans
on the widest window to push them down, and the order of the busy items suffers. With a column for
the step, each does its own part (`docs/decisions/0007`).
"""

import numpy as np


def count_columns(counts: np.ndarray) -> np.ndarray:
    """Return log(1 + n) of all windows, then 1 where n > 0: [..., K] -> float32 [..., 2K]."""
    return np.concatenate([np.log1p(counts), counts > 0], axis=-1).astype(np.float32)
