"""A prepared directory: what `pipelines.prepare` writes, and every later step reads.

manifest.json                       kind "prepared", statistics, `data_until`
catalogue/  vocabularies/NAME/      external ids <-> rows
users.parquet                       the users table
item_counters.npy                   int64 [N, 5], as of `data_until`
rejected/*.parquet                  rows that break the data contract, with the reason
shards/00000/                       users by hash
  user_ids.npy                      bytes [U], ascending
  events.parquet searches.parquet users.parquet      validated rows, user after user
  timelines/ histories/ candidates/ ranking/         arrays, memory-mapped when read
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.artefacts import load_arrays, read_manifest, save_arrays
from recsys.data.catalogue import Catalogue
from recsys.data.examples import CandidateExamples, RankingExamples
from recsys.data.timelines import Timelines, WatchHistories
from recsys.data.vocabulary import Vocabulary

KIND, FORMAT = "prepared", 2

Record = TypeVar("Record", Timelines, WatchHistories, CandidateExamples, RankingExamples)


class Shard:
    """Users of one hash, with everything computed for them; arrays are mapped when asked for.

    Args:
        directory: `shards/NNNNN` of a prepared directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def user_ids(self) -> np.ndarray:
        """External ids: bytes [U], ascending."""
        return np.load(self.directory / "user_ids.npy", allow_pickle=False)

    @cached_property
    def timelines(self) -> Timelines:
        """Events of the users in catalogue rows."""
        return read_record(Timelines, self.directory / "timelines")

    @cached_property
    def histories(self) -> WatchHistories:
        """Positive, trained watches of the users."""
        return read_record(WatchHistories, self.directory / "histories")

    @cached_property
    def candidates(self) -> CandidateExamples:
        """Labels of the candidate net."""
        return read_record(CandidateExamples, self.directory / "candidates")

    @cached_property
    def ranking(self) -> RankingExamples:
        """Impressions for the ranking net."""
        return read_record(RankingExamples, self.directory / "ranking")

    def events(self, columns: list[str] | None = None) -> pa.Table:
        """Read the validated events [E], in the order of the timelines.

        Args:
            columns: Only these, as far as the log has them; None: all.
        """
        path = self.directory / "events.parquet"
        if columns is not None:
            columns = [name for name in pq.read_schema(path).names if name in columns]
        return pq.read_table(path, columns=columns)

    def searches(self) -> pa.Table:
        """Read the validated searches, each user's oldest first."""
        return pq.read_table(self.directory / "searches.parquet")

    def users(self) -> pa.Table:
        """Read the users table [U], in the order of `user_ids`, nulls for unknown users."""
        return pq.read_table(self.directory / "users.parquet")


@dataclass(frozen=True)
class Prepared:
    """A prepared directory.

    Args:
        manifest: With `statistics` and `settings`.
        catalogue: The servable items.
        vocabularies: By column; `search_token` is always there.
        users: The users table.
        data_until: A bundle made of it knows what was known strictly before, in microseconds
            (or sequence numbers where the log has no times).
        item_counters: int64 [N, 5] (`ITEM_COUNTERS`), as of `data_until`.
        shards: The users, by hash.
    """

    manifest: dict[str, Any]
    catalogue: Catalogue
    vocabularies: dict[str, Vocabulary]
    users: pa.Table
    data_until: int
    item_counters: np.ndarray
    shards: list[Shard]


def load_prepared(path: Path) -> Prepared:
    """Open a prepared directory.

    Raises:
        ArtefactError: It is none, or of another format.
    """
    manifest = read_manifest(path, KIND, FORMAT)
    vocabularies = {
        directory.name: Vocabulary.load(directory)
        for directory in sorted((path / "vocabularies").iterdir())
    }
    return Prepared(
        manifest=manifest,
        catalogue=Catalogue.load(path / "catalogue"),
        vocabularies=vocabularies,
        users=pq.read_table(path / "users.parquet"),
        data_until=manifest["data_until"],
        item_counters=np.load(path / "item_counters.npy", mmap_mode="r", allow_pickle=False),
        shards=[Shard(directory) for directory in sorted((path / "shards").iterdir())],
    )


def write_record(record: Record, directory: Path) -> None:
    """Write every array of a record; a dict of arrays becomes a folder."""
    arrays: dict[str, np.ndarray] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Mapping):
            arrays |= {f"{field.name}/{name}": array for name, array in value.items()}
        else:
            arrays[field.name] = value
    save_arrays(directory, arrays)


def read_record(kind: type[Record], directory: Path) -> Record:
    """Map a record written by `write_record`."""
    arrays = load_arrays(directory)
    content: dict[str, Any] = {}
    for field in fields(kind):
        prefix = f"{field.name}/"
        nested = {key[len(prefix) :]: a for key, a in arrays.items() if key.startswith(prefix)}
        content[field.name] = arrays.get(field.name, nested)
    return kind(**content)
