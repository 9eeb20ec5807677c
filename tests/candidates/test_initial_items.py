"""What the item table begins with: which rows are written, what is refused, what goes on."""

import os
import signal

import numpy as np
import pytest
from pydantic import ValidationError

from recsys.candidates.initial_items import begin_items, scaled
from recsys.candidates.skip_gram import PairBatches
from recsys.core.backends import to_numpy
from recsys.errors import TrainingInterrupted
from recsys.settings import CandidateSettings
from tests.candidates.small_log import model_of, settings_of
from tests.candidates.two_groups import cosines, two_groups

SECTIONS = {
    "skip_gram": {"subsample": 0, "batch_size": 128, "max_epochs": 4, "learning_rate": 0.02},
    "auto_encoder": {"level_epochs": 1, "max_epochs": 10, "learning_rate": 0.02},
    "variational_auto_encoder": {"max_epochs": 10, "learning_rate": 0.02},
}


def model_with(way, seed=0, **changes):
    section = {way: SECTIONS[way]} if way in SECTIONS else {}
    return model_of(settings_of(initial_items=way, **section, **changes), seed=seed)


def values(model):
    return [to_numpy(variable.value) for variable in model.variables]


@pytest.mark.parametrize("way", SECTIONS)
def test_each_way_writes_the_table_of_watched_items_alone(way, tmp_path):
    model, random = model_with(way), model_with("random")
    begin_items(model, two_groups(), tmp_path, seed=0)
    pairs = zip(model.variables, values(model), values(random), strict=True)
    changed = [variable for variable, own, other in pairs if not np.array_equal(own, other)]
    assert [id(variable) for variable in changed] == [id(model.watch_table.own.table)]
    table = to_numpy(model.watch_table.own.table.value)
    np.testing.assert_array_equal(table[0], 0)
    assert np.square(table[1:]).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)
    within, across = cosines(table[1:])
    assert within > across + 0.3


def test_a_shared_table_begins_on_both_sides(tmp_path):
    model = model_with("skip_gram", shared_table=True)
    begin_items(model, two_groups(), tmp_path, seed=0)
    assert model.output_table.own.table is model.watch_table.own.table
    within, across = cosines(model.item_vectors()[:, :6])
    assert within > across + 0.3


def test_rows_are_scaled_as_one():
    rows = np.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(scaled(rows), rows / np.sqrt(25 / 3), rtol=1e-6)
    np.testing.assert_array_equal(scaled(rows * 0), rows * 0)


def test_seeds_begin_differently_and_repeat(tmp_path):
    tables = []
    for number, seed in enumerate((1, 1, 2)):
        model = model_with("skip_gram", seed=seed)
        begin_items(model, two_groups(), tmp_path / str(number), seed=seed)
        tables.append(to_numpy(model.watch_table.own.table.value))
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.allclose(tables[0], tables[2])


def test_a_killed_beginning_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole, killed, again = (model_with("skip_gram") for _ in range(3))
    begin_items(whole, two_groups(), tmp_path / "whole", seed=0)
    given, epochs = PairBatches.__call__, []

    def struck(self, epoch):
        epochs.append(epoch)
        for number, batch in enumerate(given(self, epoch)):
            if epochs == [0, 1] and number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(PairBatches, "__call__", struck)
    with pytest.raises(TrainingInterrupted):
        begin_items(killed, two_groups(), tmp_path / "killed", seed=0)
    begin_items(again, two_groups(), tmp_path / "killed", seed=0)
    assert epochs == [0, 1, 1, 2, 3]
    for value, wanted in zip(values(again), values(whole), strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_shared_rows_of_items_are_refused():
    with pytest.raises(ValidationError, match="initial_items = 'skip_gram'.*item_categorical"):
        CandidateSettings(initial_items="skip_gram", item_categorical=("channel_id",))


def test_a_section_without_effect_is_refused():
    with pytest.raises(ValidationError, match=r"\[candidates.skip_gram\] has no effect.*'random'"):
        CandidateSettings(skip_gram={"window": 3})
    chosen = CandidateSettings(initial_items="skip_gram", skip_gram={"window": 3})
    assert chosen.each_member()[0].skip_gram.window == 3
