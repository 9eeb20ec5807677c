"""What the table of watched items begins with: the item vectors of a net trained before.

Each way is a function of the training watches alone. Its rows are brought to the size that random
ones have, so that the learning rate of the net that goes on with them stays right.
"""

from pathlib import Path

import numpy as np

from recsys.artefacts import UNFINISHED
from recsys.candidates.auto_encoder import AutoEncoder, Validate, train_auto_encoder
from recsys.candidates.model import CandidateModel
from recsys.candidates.sequences import Labels
from recsys.candidates.skip_gram import skip_gram_rows
from recsys.candidates.variational import VariationalAutoEncoder, train_variational
from recsys.candidates.watch_vectors import WatchVectors
from recsys.core.backends import to_numpy
from recsys.core.random import stream_seed
from recsys.core.training import TrainingHistory
from recsys.settings import CandidateSettings

WatchNet = AutoEncoder | VariationalAutoEncoder
DIRECTORY = "initial_items"
"""Below `unfinished/` of the net's training, which goes when that is done."""


def begin_items(model: CandidateModel, labels: Labels, directory: Path, *, seed: int) -> None:
    """Give an untrained net the rows that its settings name.

    A training that was killed goes on; one that was finished gives its rows at once.

    Args:
        model: Whose table of watched items, which may be that of scored items too, is written to.
        labels: Training watches of trained items.
        directory: Of the net's training.
        seed: Of initial values and batches.

    Raises:
        ConfigError: There are more items than the way can have.
        DataError: The way has nothing to learn from.
        TrainingError: The training fails, or the directory holds the checkpoint of another one.
    """
    own = directory / UNFINISHED / DIRECTORY
    own.mkdir(parents=True, exist_ok=True)
    seed = stream_seed(seed, DIRECTORY)
    rows = item_rows(labels, model.sizes.num_items, model.settings, directory=own, seed=seed)
    table = model.watch_table.own.table
    table.assign(np.concatenate([to_numpy(table.value)[:1], scaled(rows)]))


def item_rows(
    labels: Labels, num_items: int, settings: CandidateSettings, *, directory: Path, seed: int
) -> np.ndarray:
    """Train what the settings name, and return its item vectors: float32 [N, D]."""
    if settings.initial_items == "skip_gram":
        width, own = settings.embedding_width, settings.skip_gram
        return skip_gram_rows(labels, num_items, width, own, directory=directory, seed=seed)
    net = new_watch_net(num_items, settings, seed=seed)
    fit_watch_net(net, labels, settings, directory=directory, seed=seed)
    return net.item_rows()


def new_watch_net(num_items: int, settings: CandidateSettings, *, seed: int) -> WatchNet:
    """Return the untrained auto-encoder of the settings, its first layer as wide as the table."""
    width = settings.embedding_width
    if settings.initial_items == "auto_encoder":
        own = settings.auto_encoder
        return AutoEncoder(num_items, (width, *own.hidden), own.dropout, seed=seed)
    drawn = settings.variational_auto_encoder
    return VariationalAutoEncoder(num_items, width, drawn.code_width, drawn.dropout, seed=seed)


def fit_watch_net(
    net: WatchNet,
    labels: Labels,
    settings: CandidateSettings,
    validate: Validate | None = None,
    *,
    directory: Path,
    seed: int,
) -> TrainingHistory:
    """Train an auto-encoder on what users watched; take up what was begun in the directory.

    Args:
        net: Untrained.
        labels: Training watches of trained items.
        settings: Their section of it.
        validate: Measures the net after each epoch by `ndcg@10`; None keeps the last weights.
        directory: For checkpoints and curves.
        seed: Of the batches.
    """
    if isinstance(net, AutoEncoder):
        own = settings.auto_encoder
        batches = WatchVectors(labels, net.num_items, own.batch_size, seed=seed)
        return train_auto_encoder(net, batches, own, validate, directory=directory, seed=seed)
    drawn = settings.variational_auto_encoder
    batches = WatchVectors(labels, net.num_items, drawn.batch_size, seed=seed)
    return train_variational(net, batches, drawn, validate, directory=directory, seed=seed)


def scaled(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1 in the mean of squares, as random ones have: float32 [N, D]."""
    mean_square = np.mean(np.sum(np.square(rows, dtype=np.float64), axis=1))
    return (rows / np.sqrt(max(mean_square, 1e-12))).astype(np.float32)
