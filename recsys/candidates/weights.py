"""A trained net's weights, kept for the net of a later log: rows follow their ids.

From log to log the row of an item or of any other category changes, and new ones appear. What is
looked up by id is therefore carried over by id; new ids begin as in a new net.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from recsys.candidates.model import CandidateModel
from recsys.core.backends import to_numpy
from recsys.data.catalogue import Catalogue
from recsys.data.vocabulary import Vocabulary
from recsys.errors import TrainingError


@dataclass(frozen=True)
class IdSpaces:
    """What the rows of a net's tables stand for.

    Args:
        catalogue: Items.
        vocabularies: Search tokens and context columns, by name.
    """

    catalogue: Catalogue
    vocabularies: dict[str, Vocabulary]


def save_weights(model: CandidateModel, path: Path) -> None:
    """Write every variable, in the order of the model, as one `.npz`."""
    values = {f"{number:05d}": to_numpy(each.value) for number, each in enumerate(model.variables)}
    np.savez(path, **values)  # type: ignore[arg-type]


def load_weights(model: CandidateModel, ids: IdSpaces, path: Path, path_ids: IdSpaces) -> None:
    """Give a net the weights of an older one.

    Args:
        model: Of the same settings as the older one.
        ids: What the rows of its tables stand for.
        path: Written by `save_weights`.
        path_ids: What the rows stood for there.

    Raises:
        TrainingError: The older net has other parts.
    """
    with np.load(path, allow_pickle=False) as file:
        old_values = [file[name] for name in sorted(file.files)]
    sources = {id(table): rows for table, rows in _sources(model, ids, path_ids)}
    fits = len(old_values) == len(model.variables)
    for variable, old in zip(model.variables, old_values, strict=False):
        source = sources.get(id(variable))
        fits &= old.shape[source is not None :] == tuple(variable.shape)[source is not None :]
    if not fits:
        raise TrainingError(
            f"{path}: holds a net of other inputs, widths or depth; expected those of the "
            f"[candidates] section as it is now: keep that section, or train anew"
        )
    for variable, old in zip(model.variables, old_values, strict=True):
        variable.assign(_carried(to_numpy(variable.value), old, sources.get(id(variable))))


def _carried(new: np.ndarray, old: np.ndarray, source: np.ndarray | None) -> np.ndarray:
    """Return old rows where there are any, new ones elsewhere."""
    if source is None:
        return old
    known = source >= 0
    new[known] = old[source[known]]
    return new


def _sources(
    model: CandidateModel, ids: IdSpaces, old: IdSpaces
) -> Iterator[tuple[keras.Variable, np.ndarray]]:
    """Yield each table with the old row of each of its rows, -1 for none: int64 [rows]."""
    items = ids.catalogue.item_ids(np.arange(ids.catalogue.num_trained))
    row = old.catalogue.rows(items).astype(np.int64)
    row[row >= old.catalogue.num_trained] = -1
    codes = np.concatenate([[0], np.where(row >= 0, row + 1, -1)])
    yield model.watch_table.own.table, codes
    yield model.output_table.own.table, codes
    if model.settings.similarity == "inner_product":
        yield model.output_bias, row
    if model.token_table is not None:
        yield model.token_table.table, _codes(ids, old, "search_token")
    for name, table in zip(model.settings.context, model.context_tables, strict=True):
        yield table.table, _codes(ids, old, name)


def _codes(ids: IdSpaces, old: IdSpaces, name: str) -> np.ndarray:
    vocabulary, old_vocabulary = ids.vocabularies[name], old.vocabularies[name]
    row = old_vocabulary.rows(vocabulary.ids(np.arange(len(vocabulary)))).astype(np.int64)
    return np.concatenate([[0], np.where(row >= 0, row + 1, -1)])
