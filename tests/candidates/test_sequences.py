"""Shards joined: users numbered through, labels picked, ages of examples."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.candidates.sequences import join_labels, join_sequences, newest_labels
from recsys.data.examples import TRAINING, VALIDATION
from tests.candidates.small_log import random_shard, settings_of, shard_of


def test_join_numbers_users_through_all_shards():
    parts = [random_shard(3, seed=0), random_shard(2, seed=1)]
    sequences = join_sequences(parts)
    labels = join_labels(parts, settings_of(), split=VALIDATION, num_trained=99)
    assert sequences.num_users == 5
    assert labels.user.tolist() == [0, 1, 2, 3, 4]
    second = parts[1][0]
    np.testing.assert_array_equal(
        sequences.histories.newest(np.array([3]), labels.known_watches[3:4], 3),
        second.newest(np.array([0]), labels.known_watches[3:4], 3),
    )


def test_join_labels_marks_items_without_a_row():
    parts = [shard_of([[0, 1, 2, 3]])]
    labels = join_labels(parts, settings_of(), split=TRAINING, num_trained=2)
    assert labels.item.tolist() == [0, 1, -1]


def test_join_labels_takes_targets_only_where_asked():
    parts = [shard_of([[0, 1, 2], [3, 4]])]
    parts[0][1].is_target[:] = False
    settings = settings_of()
    assert len(join_labels(parts, settings, split=VALIDATION, num_trained=9)) == 2
    asked = join_labels(parts, settings, split=VALIDATION, num_trained=9, targets_only=True)
    assert len(asked) == 0


def test_example_age_runs_from_the_newest_training_example_to_the_oldest():
    parts = [shard_of([[0, 1, 2, 3, 4, 5]])]
    training = join_labels(parts, settings_of(), split=TRAINING, num_trained=9)
    np.testing.assert_allclose(training.example_age, [1, 0.75, 0.5, 0.25, 0])
    later = join_labels(parts, settings_of(), split=VALIDATION, num_trained=9)
    np.testing.assert_array_equal(later.example_age, [0])


def test_example_age_is_zero_where_nothing_has_a_time():
    parts = [shard_of([[0, 1, 2]], has_time=False)]
    labels = join_labels(parts, settings_of(), split=TRAINING, num_trained=9)
    assert not labels.example_age.any()


@pytest.mark.parametrize(("moment", "known"), [(0, [0, 0]), (2, [2, 2]), (99, [4, 3])])
def test_newest_labels_know_what_was_known_strictly_before(moment, known):
    part = shard_of([[0, 1, 2, 3], [4, 5, 6]])
    labels = newest_labels(part, settings_of(), moment, has_time=True)
    assert labels.known_watches.tolist() == known
    for user, count in enumerate(known):
        expected = part[1].context["country"][part[0].offsets[user] + count - 1] if count else 0
        assert labels.context[user, 0] == expected


def test_newest_labels_know_tokens_strictly_before():
    histories, examples = shard_of([[0, 1, 2], [3, 4]])
    searched = replace(
        examples,
        token_offsets=np.array([0, 3, 4]),
        token=np.array([1, 2, 3, 4], np.int32),
        token_moment=np.array([0, 1, 5, 1]),
    )
    labels = newest_labels((histories, searched), settings_of(), 1, has_time=True)
    assert labels.known_tokens.tolist() == [1, 0]
    later = newest_labels((histories, searched), settings_of(), 2, has_time=True)
    assert later.known_tokens.tolist() == [2, 1]
