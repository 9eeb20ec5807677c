"""What is written for TensorBoard is what TensorBoard reads."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recsys.core.layers.embedding import Embedding
from recsys.core.tensorboard import DIRECTORY, write_projector
from recsys.errors import ConfigError
from tests.core.small_training import NUM_IDS, WIDTH, Net, new_net, run


class TableNet(Net):
    """The net over a table of ours, whose name says that it is one."""

    def __init__(self):
        super().__init__()
        self.table = Embedding(NUM_IDS, WIDTH, seed=3)
        self.table.build(None)
        self.out.build((None, WIDTH))
        self.built = True


def read(directory):
    found = EventAccumulator(str(directory / DIRECTORY), size_guidance={"tensors": 0})
    found.Reload()
    return found


def test_details_hold_rates_gradients_tables_and_the_graph(tmp_path):
    net = TableNet()
    history = run(
        net,
        tmp_path,
        tensorboard_details=True,
        warmup_steps=12,
        learning_rate=0.04,
        max_epochs=2,
    )
    found = read(tmp_path)
    tags = set(found.Tags()["tensors"])
    wanted = {"loss", "largest_error", "gradient_norm", "learning_rate", "examples_per_second"}
    assert {f"training/{name}" for name in wanted} | {"validation/error"} <= tags
    assert any(tag.endswith("/table") for tag in tags)
    assert found.Tags()["graph"]
    rates = [event.tensor_proto.float_val[0] for event in found.Tensors("training/learning_rate")]
    np.testing.assert_allclose(rates, [0.04 * 7 / 12, 0.04], rtol=1e-5)
    assert history.epochs[0].figures["gradient_norm"] > 0


def test_plain_files_hold_scalars_alone(tmp_path):
    history = run(new_net(), tmp_path, tensorboard=True, max_epochs=1)
    found = read(tmp_path)
    assert not found.Tags()["graph"]
    assert "gradient_norm" not in history.epochs[0].figures


def test_details_change_nothing_about_a_training(tmp_path):
    ends = []
    for name, is_detailed in (("plain", False), ("detailed", True)):
        (tmp_path / name).mkdir()
        history = run(
            new_net(), tmp_path / name, tensorboard_details=is_detailed, table_optimizer="lazy_adam"
        )
        ends.append([epoch.figures["loss"] for epoch in history.epochs])
    assert ends[0] == ends[1]


def test_details_are_refused_under_jax(tmp_path, monkeypatch):
    net = new_net()
    monkeypatch.setattr("recsys.core.tensorboard.keras.backend.backend", lambda: "jax")
    with pytest.raises(ConfigError, match="written by TensorFlow, this is jax"):
        run(net, tmp_path, tensorboard_details=True)


def test_projector_is_told_of_vectors_and_titles(tmp_path):
    vectors = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)
    write_projector(tmp_path, vectors, {"item_id": ["a", "b"], "title": ["One\ttab", "Two"]})
    place = tmp_path / DIRECTORY
    np.testing.assert_array_equal(np.loadtxt(place / "vectors.tsv", delimiter="\t"), vectors)
    lines = (place / "vectors_metadata.tsv").read_text().splitlines()
    assert lines == ["item_id\ttitle", "a\tOne tab", "b\tTwo"]
    config = (place / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "vectors.tsv"' in config
    assert 'metadata_path: "vectors_metadata.tsv"' in config


def test_projector_of_one_column_has_no_line_of_names(tmp_path):
    write_projector(tmp_path, np.ones((1, 2)), {"item_id": ["a"]})
    assert (tmp_path / DIRECTORY / "vectors_metadata.tsv").read_text() == "a\n"
