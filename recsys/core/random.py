"""One seed, many named streams: each use of chance is independent of all the others.

A stream depends on the seed and its names only, never on how often another was used, so that
work can be skipped, repeated or done in another order without changing any other draw.
"""

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator of a named use of chance: `stream(seed, "negatives", epoch)`."""
    return np.random.default_rng(np.frombuffer(_digest(seed, names), np.uint32))


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 31-bit seed for a library that wants a number (a Keras initializer)."""
    return int.from_bytes(_digest(seed, names)[:4], "little") & 0x7FFFFFFF


def _digest(seed: int, names: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256(repr((seed, *names)).encode()).digest()
