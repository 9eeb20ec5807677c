"""What TensorBoard shows of a training: `tensorboard --logdir DIRECTORY`.

Always: losses, metrics, learning rate by epoch. In detail, where asked: the length of the
gradients, histograms of the tables, the graph of the net, and by `write_projector` item vectors
with titles. Histograms and the graph are written by TensorFlow, and refused under JAX.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tensorboard.summary import Writer

from recsys.core.backends import ArrayBatch, Loss
from recsys.core.optimizers.row_sparse import is_table
from recsys.errors import ConfigError

DIRECTORY = "tensorboard"
MAX_PROJECTED = 10_000
"""Vectors in the projector, which shows all of them at once."""


class Board:
    """The files of one training.

    Args:
        directory: Of the training; files go into `tensorboard/` below it.
        is_detailed: Whether there are histograms and the graph.

    Raises:
        ConfigError: Details are asked for under another backend than TensorFlow.
    """

    def __init__(self, directory: Path, *, is_detailed: bool) -> None:
        path = str(directory / DIRECTORY)
        self.scalars = Writer(path)
        self.details = _new_details(path) if is_detailed else None
        self.has_graph = False

    def write_scalars(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Write numbers by tag."""
        for tag, value in scalars.items():
            self.scalars.add_scalar(tag, value, epoch)
        self.scalars.flush()

    def write_tables(self, epoch: int, variables: Sequence[keras.Variable]) -> None:
        """Write a histogram of each embedding and output table."""
        if self.details is None:
            return
        import tensorflow as tf

        with self.details.as_default(step=epoch):
            for variable in filter(is_table, variables):
                tf.summary.histogram(variable.path, variable.value)
        self.details.flush()

    def write_graph(self, loss: Loss, batch: ArrayBatch) -> None:
        """Write the graph of a loss on a batch, the first time that it is asked for."""
        if self.details is None or self.has_graph:
            return
        import tensorflow as tf

        specs = {name: tf.TensorSpec(values.shape, values.dtype) for name, values in batch.items()}
        traced = tf.function(lambda batch: loss(batch)[0]).get_concrete_function(specs)
        with self.details.as_default(step=0):
            tf.summary.graph(traced.graph)
        self.has_graph = True


def write_projector(
    directory: Path, vectors: np.ndarray, columns: Mapping[str, Sequence[str]]
) -> None:
    """Write vectors for the projector, where the training has a board.

    Args:
        directory: Of the training.
        vectors: float32 [n, D]; more than `MAX_PROJECTED` are slow to look at.
        columns: What is known of each, [n] texts a column: ids, titles.
    """
    place = directory / DIRECTORY
    place.mkdir(exist_ok=True)
    np.savetxt(place / "vectors.tsv", vectors, fmt="%.6g", delimiter="\t")
    lines = ["\t".join(map(_clean, row)) for row in zip(*columns.values(), strict=True)]
    # A file of one column has no line of names: it would be taken for a vector's.
    if len(columns) > 1:
        lines.insert(0, "\t".join(columns))
    (place / "vectors_metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (place / "projector_config.pbtxt").write_text(
        'embeddings {\n  tensor_name: "items"\n  tensor_path: "vectors.tsv"\n'
        '  metadata_path: "vectors_metadata.tsv"\n}\n',
        encoding="utf-8",
    )


def _new_details(path: str) -> Any:
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"tensorboard_details: histograms and the graph are written by TensorFlow, this is "
            f"{keras.backend.backend()}: leave it out, or set KERAS_BACKEND=tensorflow"
        )
    import tensorflow as tf

    return tf.summary.create_file_writer(path, filename_suffix=".details")


def _clean(text: object) -> str:
    """Return a text without what parts columns and lines."""
    return " ".join(str(text).split())
