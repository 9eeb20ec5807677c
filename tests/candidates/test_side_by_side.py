"""Nets whose vectors stand side by side score by the mean of their logits."""

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.candidates.export import export_user_tower
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.side_by_side import SideBySide
from recsys.candidates.user_tower import UserTower
from recsys.candidates.vectors import BulkTower, served_inputs
from recsys.core.backends import to_numpy
from recsys.data.examples import VALIDATION
from tests.candidates.small_log import NUM_ITEMS, model_of, random_shard, settings_of

MEMBERS = (
    {"temperature": 0.05},
    {
        "encoder": "attention",
        "embedding_width": 4,
        "temperature": 0.2,
        "training": {"max_epochs": 3},
    },
)


@pytest.fixture
def settings():
    return settings_of(similarity="cosine", members=MEMBERS)


@pytest.fixture
def inputs(settings):
    parts = [random_shard(20)]
    labels = join_labels(parts, settings, split=VALIDATION, num_trained=NUM_ITEMS)
    return served_inputs(join_sequences(parts), labels, settings)


def nets_of(settings):
    members = settings.each_member()
    return SideBySide([model_of(member, seed=seed) for seed, member in enumerate(members)])


def test_members_replace_what_they_name_and_keep_the_rest(settings):
    first, second = settings.each_member()
    assert (first.encoder, second.encoder) == ("bag", "attention")
    assert first.context == second.context == settings.context
    assert second.training.max_epochs == 3
    assert second.training.batch_size == settings.training.batch_size
    assert settings.history_length == second.history_length == 200


def test_score_is_the_mean_of_the_logits(settings, inputs):
    nets = nets_of(settings)
    users, items = nets.user_vectors(inputs), nets.item_vectors()
    assert users.shape[2] == items.shape[1] == nets.width == 10
    expected = sum(
        np.exp(to_numpy(model.log_scale.value))
        * (BulkTower(model)(inputs)[:, 0] @ model.item_vectors().T)
        for model in nets.models
    )
    np.testing.assert_allclose(users[:, 0] @ items.T, expected / 2, rtol=1e-4, atol=1e-5)


def test_a_net_alone_is_served_as_it_is(inputs):
    settings = settings_of(similarity="cosine")
    model = model_of(settings)
    nets = SideBySide([model])
    np.testing.assert_array_equal(nets.user_vectors(inputs), BulkTower(model)(inputs))
    np.testing.assert_array_equal(nets.item_vectors(), model.item_vectors())


def test_exported_graphs_give_the_joined_vectors(settings, inputs, tmp_path):
    nets = nets_of(settings)
    paths = [tmp_path / "user_tower.onnx", tmp_path / "user_tower_2.onnx"]
    for path, model, factor in zip(paths, nets.models, nets.factors(), strict=True):
        export_user_tower(model, inputs, path, factor=factor)
    np.testing.assert_allclose(
        UserTower(*paths).vectors(inputs), nets.user_vectors(inputs), atol=1e-4
    )


def test_what_all_members_are_told_cannot_differ():
    with pytest.raises(ValidationError, match="'context' is not a member's own"):
        settings_of(members=[{"context": ()}])
    with pytest.raises(ValidationError, match="embedding_width"):
        settings_of(members=[{"embedding_width": 0}])
    with pytest.raises(ValidationError, match="popularity_minutes"):
        settings_of(members=[{}], popularity_minutes=(60,))
