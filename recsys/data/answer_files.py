"""The files of the log of answers: what a server returned, one row an answer.

Parquet files, whose names say from when to when their answers are. `serving.answer_log` writes
them, `recsys.data.answers` joins them with events.
"""

import re
from pathlib import Path

import pyarrow as pa

from recsys.data.schema import TIME

FEATURE = pa.struct([("name", pa.string()), ("number", pa.float64()), ("text", pa.string())])
RANKED = [
    ("item_id", pa.string()),
    ("position", pa.int16()),
    ("propensity", pa.float64()),
    ("expected_watch_seconds", pa.float32()),
    ("source", pa.string()),
    ("candidate_score", pa.float32()),
    ("candidate_rank", pa.float32()),
]
ANSWERS = pa.schema(
    [
        ("user_id", pa.string()),
        ("request_id", pa.string()),
        ("answer_time", TIME),
        ("bundle_id", pa.string()),
        ("policy", pa.string()),
        ("temperature", pa.float64()),
        ("surface", pa.string()),
        ("device", pa.string()),
        ("country", pa.string()),
        ("language", pa.string()),
        ("logged_in", pa.bool_()),
        ("gender", pa.string()),
        ("age", pa.float32()),
        ("current_item_id", pa.string()),
        ("degraded_stages", pa.list_(pa.string())),
        ("num_candidates", pa.int32()),
        ("items", pa.list_(pa.struct([*RANKED, ("features", pa.list_(FEATURE))]))),
        ("candidates", pa.list_(pa.struct(RANKED))),
    ]
)
"""One row an answer. `items` are those of all its pages. `features`, `candidate_score` and
`candidate_rank` are there for the share of answers whose features are logged; `candidates`, all of
them in the final order, for the share of answers whose candidates are."""

FILE_NAME = re.compile(r"answers-(\d+)-(\d+)-[0-9a-f]+\.parquet")


def file_name(first: int, last: int, unique: str) -> str:
    """Return the name of a file of answers from one moment to another (microseconds)."""
    return f"answers-{first}-{last}-{unique}.parquet"


def answer_files(directory: Path) -> dict[Path, tuple[int, int]]:
    """Return the files of a log of answers, each with its first and last moment."""
    found = ((path, FILE_NAME.fullmatch(path.name)) for path in sorted(directory.iterdir()))
    return {path: (int(match[1]), int(match[2])) for path, match in found if match}
