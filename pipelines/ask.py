"""Ask a bundle from the command line: one user, a file of users, similar items, why and why not.

Users' states come from the `state/` directory of a run; the moment of the question is the
bundle's data_until unless another is given, so that the answer is repeatable.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from recsys.bundle import Bundle
from recsys.errors import DataError
from recsys.progress import progress
from recsys.recommender import Recommender
from recsys.requests import Recommendation, Request
from recsys.state import UserState
from recsys.state_files import find_states, read_states

BATCH = 256


def open_recommender(bundle_directory: Path) -> Recommender:
    """Load a bundle for questions."""
    return Recommender(Bundle.load(bundle_directory))


def ask_user(
    recommender: Recommender, state: UserState, *, num_items: int, explained: bool
) -> dict[str, Any]:
    """Answer for one user, as a JSON-able object."""
    request = new_request(recommender, state, num_items=num_items, explained=explained)
    return answer_to_json(state.user_id, recommender, recommender.recommend([request])[0])


def find_state(state_directory: Path, user_id: str) -> UserState:
    """Return a user's state, an empty one for a user whom nobody has seen."""
    return find_states(state_directory, [user_id]).get(user_id, UserState(user_id))


def new_request(
    recommender: Recommender, state: UserState, *, num_items: int, explained: bool = False
) -> Request:
    """Ask at the bundle's data_until."""
    return Request(state, now=recommender.data_until, num_items=num_items, explained=explained)


def answer_users(
    recommender: Recommender,
    state_directory: Path,
    users_file: Path | None,
    out: Path,
    num_items: int,
) -> int:
    """Answer for many users into one Parquet file; return their number.

    Args:
        recommender: Of a bundle.
        state_directory: Where their states are.
        users_file: Ids, one a line, or Parquet or CSV with a column `user_id`; None takes all.
        out: One row an answer, with the columns of `ANSWER_SCHEMA`.
        num_items: Items a user.
    """
    states = _wanted_states(state_directory, users_file)
    num_users = 0
    with progress("answers") as task, pq.ParquetWriter(out, ANSWER_SCHEMA) as writer:
        while batch := list(islice(states, BATCH)):
            requests = [new_request(recommender, state, num_items=num_items) for state in batch]
            writer.write_table(_to_table(batch, recommender.recommend(requests)))
            num_users += len(batch)
            task.advance(len(batch))
    return num_users


ANSWER_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("position", pa.int32()),
        ("item_id", pa.string()),
        ("expected_watch_seconds", pa.float32()),
        ("source", pa.string()),
        ("propensity", pa.float64()),
    ]
)


def answer_to_json(
    user_id: str, recommender: Recommender, answer: Recommendation
) -> dict[str, Any]:
    """Return an answer as a JSON-able object."""
    items = [
        {
            "position": position,
            "item_id": item.item_id,
            "expected_watch_seconds": item.expected_watch_seconds,
            "source": item.source,
            "sources": list(item.sources),
            "propensity": item.propensity,
            **({"explanation": vars(item.explanation)} if item.explanation else {}),
        }
        for position, item in enumerate(answer.items)
    ]
    return {
        "user_id": user_id,
        "bundle_id": recommender.bundle_id,
        "items": items,
        "degraded_stages": list(answer.degraded_stages),
        "failures": answer.failures,
        "dropped": answer.dropped,
        "sources": {name: vars(counts) for name, counts in answer.source_counts.items()},
    }


def _wanted_states(state_directory: Path, users_file: Path | None) -> Iterator[UserState]:
    if users_file is None:
        yield from read_states(state_directory)
        return
    user_ids = read_user_ids(users_file)
    known = find_states(state_directory, user_ids)
    yield from (known.get(user_id, UserState(user_id)) for user_id in user_ids)


def read_user_ids(path: Path) -> list[str]:
    """Read user ids: one a line, or the column `user_id` of a Parquet or CSV file.

    Raises:
        DataError: The file is missing, or has no such column.
    """
    try:
        if path.suffix not in (".parquet", ".csv"):
            return [line for line in path.read_text(encoding="utf-8").split("\n") if line]
        table = pq.read_table(path) if path.suffix == ".parquet" else _read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a file of user ids, got {error}") from None
    if "user_id" not in table.column_names:
        raise DataError(f"{path}: expected a column 'user_id', found {table.column_names}")
    return [str(user_id) for user_id in table["user_id"].to_pylist()]


def _read_csv(path: Path) -> pa.Table:
    as_text = pa_csv.ConvertOptions(column_types={"user_id": pa.string()})
    return pa_csv.read_csv(path, convert_options=as_text)


def _to_table(states: Sequence[UserState], answers: Sequence[Recommendation]) -> pa.Table:
    rows = [
        {
            "user_id": state.user_id,
            "position": position,
            "item_id": item.item_id,
            "expected_watch_seconds": item.expected_watch_seconds,
            "source": item.source,
            "propensity": item.propensity,
        }
        for state, answer in zip(states, answers, strict=True)
        for position, item in enumerate(answer.items)
    ]
    return pa.Table.from_pylist(rows, schema=ANSWER_SCHEMA)
