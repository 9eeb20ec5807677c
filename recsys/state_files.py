"""A directory of users' states: what `recsys run` writes and `recsys state import` reads.

`users-NNNNN.parquet`, one row a user: `user_id`, one list column for each column of
`UserEvents`, `searches` (list of structs), `attributes` (JSON), `seen`. Beside them a manifest
of kind `state` with `data_until`, the moment (microseconds since the epoch) that they are of.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.artefacts import MANIFEST, hash_file, new_directory, read_manifest, write_manifest
from recsys.errors import ArtefactError
from recsys.state import EVENT_DTYPES, UserEvents, UserState

KIND, FORMAT = "state", 1
USERS_PER_GROUP = 1_000
GROUPS_PER_FILE = 100
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        *(
            (name, pa.list_(pa.binary() if dtype is np.bytes_ else pa.from_numpy_dtype(dtype)))
            for name, dtype in EVENT_DTYPES.items()
        ),
        ("searches", pa.list_(pa.struct([("query", pa.string()), ("moment", pa.int64())]))),
        ("attributes", pa.string()),
        ("seen", pa.list_(pa.string())),
    ]
)


def write_states(directory: Path, states: Iterable[UserState], data_until: int) -> dict:
    """Write a state directory atomically, in bounded memory, and return its manifest.

    Args:
        directory: Replaced if it exists.
        states: Users in any order, each once.
        data_until: Microseconds since the epoch.
    """
    with new_directory(directory) as temporary:
        groups = _groups(iter(states))
        num_users = 0
        for number in count():
            group = next(groups, None)
            if group is None:
                break
            path = temporary / f"users-{number:05}.parquet"
            with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
                for users in (group, *islice(groups, GROUPS_PER_FILE - 1)):
                    writer.write_table(_to_table(users))
                    num_users += len(users)
        return write_manifest(temporary, KIND, FORMAT, data_until=data_until, num_users=num_users)


def read_manifest_of_states(directory: Path) -> dict:
    """Read the manifest of a state directory (`data_until`, `num_users`).

    Raises:
        ArtefactError: It is no state directory, or of another format.
    """
    return read_manifest(directory, KIND, FORMAT)


def read_states(directory: Path) -> Iterator[UserState]:
    """Yield the users of a state directory, file by file, each file checked before it is parsed.

    Raises:
        ArtefactError: It is no state directory, or a file is missing or altered.
    """
    for name, expected in sorted(read_manifest_of_states(directory)["files"].items()):
        path = directory / name
        if not path.is_file() or hash_file(path) != expected:
            raise ArtefactError(
                f"{path}: missing, or not what {MANIFEST} says; write the state directory anew"
            )
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(USERS_PER_GROUP):
                yield from _from_batch(batch)


def find_states(directory: Path, user_ids: Sequence[str]) -> dict[str, UserState]:
    """Return the states of some users, of those that are there; the files are not hashed.

    Raises:
        ArtefactError: It is no state directory, or a file is missing or broken.
    """
    wanted = pc.field("user_id").isin(pa.array(sorted(set(user_ids)), pa.string()))
    found: dict[str, UserState] = {}
    for name in sorted(read_manifest_of_states(directory)["files"]):
        try:
            table = pq.read_table(directory / name, filters=wanted)
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtefactError(f"{directory / name}: not readable: {error}") from None
        for batch in table.combine_chunks().to_batches():
            found |= {state.user_id: state for state in _from_batch(batch)}
    return found


def _groups(states: Iterator[UserState]) -> Iterator[list[UserState]]:
    while group := list(islice(states, USERS_PER_GROUP)):
        yield group


def _to_table(users: Sequence[UserState]) -> pa.Table:
    lengths = [len(user.events) for user in users]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    columns: dict[str, Any] = {"user_id": [user.user_id for user in users]}
    for name in EVENT_DTYPES:
        parts = [getattr(user.events, name) for user in users]
        # A list, since pyarrow would keep the zero padding of NumPy's fixed-width bytes.
        flat = [value for part in parts for value in part.tolist()]
        value_type = SCHEMA.field(name).type.value_type
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(flat, value_type))
    columns["searches"] = [
        [{"query": query, "moment": moment} for query, moment in user.searches] for user in users
    ]
    columns["attributes"] = [json.dumps(user.attributes, sort_keys=True) for user in users]
    columns["seen"] = [sorted(user.seen) for user in users]
    return pa.table(columns, schema=SCHEMA)


def _from_batch(batch: pa.RecordBatch) -> Iterator[UserState]:
    columns = {name: _flat(batch.column(name)) for name in EVENT_DTYPES}
    offsets = batch.column("item_id").offsets.to_numpy()
    offsets = offsets - offsets[0]
    others = batch.select(["user_id", "searches", "attributes", "seen"]).to_pylist()
    for user, start, end in zip(others, offsets[:-1], offsets[1:], strict=True):
        events = {name: values[start:end] for name, values in columns.items()}
        yield UserState(
            user_id=user["user_id"],
            events=UserEvents(**events),
            searches=tuple((search["query"], search["moment"]) for search in user["searches"]),
            attributes=json.loads(user["attributes"]),
            seen=frozenset(user["seen"]),
        )


def _flat(column: pa.ListArray) -> np.ndarray:
    values = column.flatten()
    if pa.types.is_binary(values.type):
        return np.array(values.to_pylist() or [], np.bytes_)
    return values.to_numpy(zero_copy_only=False)


def state_to_json(state: UserState) -> dict[str, Any]:
    """Return a state as a JSON-able value, as bundles keep their warm-up users."""
    return {
        "user_id": state.user_id,
        "events": {name: _to_list(values) for name, values in state.events.arrays().items()},
        "searches": [list(search) for search in state.searches],
        "attributes": state.attributes,
        "seen": sorted(state.seen),
    }


def state_from_json(value: Mapping[str, Any]) -> UserState:
    """Return the state that `state_to_json` was given."""
    events = {
        name: _from_list(value["events"][name], dtype) for name, dtype in EVENT_DTYPES.items()
    }
    return UserState(
        user_id=value["user_id"],
        events=UserEvents(**events),
        searches=tuple((query, moment) for query, moment in value["searches"]),
        attributes=dict(value["attributes"]),
        seen=frozenset(value["seen"]),
    )


def _to_list(values: np.ndarray) -> list:
    if values.dtype.kind == "S":
        return [value.decode() for value in values.tolist()]
    return values.tolist()


def _from_list(values: list, dtype: Any) -> np.ndarray:
    if dtype is np.bytes_:
        return np.array([value.encode() for value in values] or [], np.bytes_)
    return np.array(values, dtype)
