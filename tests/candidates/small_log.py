"""A small shard made by hand or by chance, for the tests of the candidate stage."""

import numpy as np

from recsys.candidates.model import CandidateModel
from recsys.candidates.sizes import CandidateSizes
from recsys.data.examples import TRAINING, VALIDATION, CandidateExamples
from recsys.data.timelines import WatchHistories
from recsys.settings import CandidateSettings

NUM_ITEMS, NUM_TOKENS, NUM_COUNTRIES = 12, 6, 4


def shard_of(watches, *, seed=0, has_time=True):
    """Make a shard: each user's rows of watched items, in order; the last is validation."""
    rng = np.random.default_rng(seed)
    counts = np.array([len(each) for each in watches])
    item = np.concatenate([np.asarray(each, np.int32) for each in watches])
    position = np.concatenate([np.arange(count) for count in counts])
    user = np.repeat(np.arange(len(watches)), counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    token_counts = rng.integers(0, 5, len(watches))
    tokens = int(token_counts.sum())
    count = len(item)
    known_tokens = np.minimum(position, token_counts[user])
    histories = WatchHistories(offsets, item + np.int32(1), position.astype(np.int64))
    examples = CandidateExamples(
        user=user.astype(np.int32),
        item=item,
        known_watches=position.astype(np.int32),
        known_tokens=known_tokens.astype(np.int32),
        moment=position.astype(np.int64),
        has_time=np.full(count, has_time),
        split=np.where(position == counts[user] - 1, VALIDATION, TRAINING).astype(np.int8),
        is_target=position == counts[user] - 1,
        context={"country": rng.integers(0, NUM_COUNTRIES, count).astype(np.int32)},
        age=np.where(rng.random(count) < 0.3, np.nan, 30).astype(np.float32),
        token_offsets=np.concatenate([[0], np.cumsum(token_counts)]),
        token=rng.integers(1, NUM_TOKENS, tokens).astype(np.int32),
        token_moment=np.concatenate([np.arange(each) for each in token_counts]).astype(np.int64),
    )
    return histories, examples


def random_shard(num_users=9, *, longest=40, seed=0):
    """Make a shard of users who watch at random."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest, num_users)
    return shard_of([rng.integers(0, NUM_ITEMS, length) for length in lengths], seed=seed)


def settings_of(**changes):
    """Return small settings that use every input."""
    whole = {
        "windows": (1, 4),
        "embedding_width": 6,
        "tower": (8,),
        "context": ("country",),
        "context_width": 3,
        "age": True,
        "searches": True,
        "max_search_tokens": 3,
        "example_age": True,
        "max_positions_per_user": 5,
        "max_sequence_length": 16,
        "negatives": {"uniform": 7},
    }
    training = {"batch_size": 4, "tensorboard": False} | changes.pop("training", {})
    return CandidateSettings(**(whole | changes), training=training)


def sizes_of(settings):
    """Return the sizes of the small shards."""
    return CandidateSizes(NUM_ITEMS, NUM_TOKENS, dict.fromkeys(settings.context, NUM_COUNTRIES))


def model_of(settings, seed=0):
    """Return an untrained model for the small shards."""
    return CandidateModel(settings, sizes_of(settings), seed=seed)
