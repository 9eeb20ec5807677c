"""A run made out of an older one: what is kept, what is learned, what is refused."""

import json

import numpy as np
import pytest

from pipelines.paths import RunPaths
from pipelines.update import main, updated_settings
from recsys.bundle import Bundle
from recsys.data.prepared import load_prepared
from recsys.errors import ConfigError

LATER = ["split.validation_from=2026-01-08", 'split.test_from="2026-01-08T12:00:00"']
SHORT = [
    "ranking.enabled=false",
    "exploration.enabled=false",
    "candidates.training.max_epochs=1",
]


@pytest.fixture(scope="module")
def updated(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("updated") / "run"
    main(tiny_run, out, [*LATER, *SHORT, "candidates.training.learning_rate=1e-6"])
    return RunPaths(out)


def test_vectors_of_known_items_are_gone_on_with(tiny_run, updated):
    old, new = load_prepared(tiny_run / "prepared"), load_prepared(updated.prepared)
    both = [
        (old.catalogue.rows([item])[0], row)
        for row, item in enumerate(new.catalogue.item_ids(np.arange(new.catalogue.num_trained)))
        if 0 <= old.catalogue.rows([item])[0] < old.catalogue.num_trained
    ]
    old_row, new_row = np.array(both).T
    assert len(both) > 100
    assert (old_row != new_row).any()  # rows follow today's counts
    old_vectors = np.load(tiny_run / "candidates" / "item_vectors.npy")
    new_vectors = np.load(updated.candidates / "item_vectors.npy")
    # The learning rate is next to nothing; counts, the last columns, are as of the bundle.
    learned = slice(None, -Bundle.load(updated.bundle).settings.candidates.num_popularity_columns)
    np.testing.assert_allclose(
        new_vectors[new_row, learned], old_vectors[old_row, learned], atol=1e-3
    )
    assert (new_vectors[new_row] != old_vectors[old_row])[:, learned.stop :].any()


def test_only_watches_since_the_older_run_are_learned(tiny_run, updated):
    curves = json.loads((updated.candidates / "curves.json").read_text())
    old = json.loads((tiny_run / "candidates" / "curves.json").read_text())
    model = json.loads((updated.candidates / "model.json").read_text())
    before = json.loads((tiny_run / "candidates" / "model.json").read_text())
    assert model["learned_until"] > before["learned_until"]
    assert len(curves["epochs"]) == 1
    assert len(old["epochs"]) == 2


def test_the_new_bundle_serves(updated):
    bundle = Bundle.load(updated.bundle)
    assert bundle.settings.candidates.warm_start is not None
    assert bundle.data_until > 0


def test_the_same_log_and_split_are_refused(tiny_run):
    with pytest.raises(ConfigError, match="move the cuts"):
        updated_settings(tiny_run, ["candidates.training.max_epochs=1"])
