"""Named streams of chance."""

import numpy as np

from recsys.core.random import stream, stream_seed


def test_stream_repeats_by_seed_and_names():
    np.testing.assert_array_equal(stream(1, "a", 2).random(5), stream(1, "a", 2).random(5))


def test_streams_of_other_names_or_seeds_differ():
    keys = [(1, "a", 2), (1, "a", 3), (1, "b", 2), (2, "a", 2), (1, "a", "2")]
    draws = {tuple(stream(*key).random(3)) for key in keys}
    assert len(draws) == len(keys)


def test_stream_seed_fits_31_bits():
    seeds = {stream_seed(0, "layer", number) for number in range(200)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
