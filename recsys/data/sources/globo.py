"""Globo.com news clicks: user, session, article, time and context, no watch time.

Reads the original hourly files (`clicks_hour_*.csv`) below `path`, or `clicks.parquet` there.
Every row is a click, not an impression; its codes (device, country, ...) stay strings, for they
are no quantities. With the original `articles_metadata.csv` beside them, the articles too:
category as topic, publisher as channel. There are no options.

Reference: de Souza Pereira Moreira, Ferreira & da Cunha, News Session-Based Recommendations
using Deep Neural Networks, DLRS 2018.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from recsys.data.files import find_files, read_files, read_whole
from recsys.data.log import FileProblems, Log
from recsys.data.sources.columns import (
    check_options,
    constant,
    epoch_to_time,
    integers_to_text,
    log_path,
)
from recsys.settings import DataSettings

_TEXT_COLUMNS = {
    "user_id": "user_id",
    "item_id": "click_article_id",
    "session_id": "session_id",
    "device": "click_deviceGroup",
    "country": "click_country",
    "os": "click_os",
    "region": "click_region",
    "referrer_type": "click_referrer_type",
    "environment": "click_environment",
}
_TIME_COLUMN = "click_timestamp"
_READ = (*_TEXT_COLUMNS.values(), _TIME_COLUMN)


def read(settings: DataSettings, seed: int) -> Log:
    """Open the clicks; `seed` is not used."""
    del seed
    check_options(settings, ())
    path, problems = log_path(settings), FileProblems()
    files = _click_files(path)

    def events() -> Iterator[pa.Table]:
        types = dict.fromkeys(_READ, pa.int64())
        return map(_events, read_files(files, problems, types=types, columns=_READ))

    metadata = path / "articles_metadata.csv"
    items = _items(read_whole([metadata], problems, types={})) if metadata.is_file() else None
    return Log(events, items=items, problems=problems)


def _click_files(path: Path) -> list[Path]:
    parquet = path / "clicks.parquet"
    return [parquet] if parquet.is_file() else find_files(path, "clicks_hour_*.csv")


def _events(clicks: pa.Table) -> pa.Table:
    present = [name for name, raw in _TEXT_COLUMNS.items() if raw in clicks.column_names]
    columns = {name: integers_to_text(clicks[_TEXT_COLUMNS[name]]) for name in present}
    if _TIME_COLUMN in clicks.column_names:
        columns["event_time"] = epoch_to_time(clicks[_TIME_COLUMN], "ms")
    columns["clicked"] = constant(True, clicks.num_rows)
    columns["is_impression"] = constant(False, clicks.num_rows)
    return pa.table(columns, metadata=clicks.schema.metadata)


def _items(articles: pa.Table) -> pa.Table:
    category = integers_to_text(articles["category_id"]).combine_chunks()
    one_each = pa.array(range(articles.num_rows + 1), pa.int32())
    return pa.table(
        {
            "item_id": integers_to_text(articles["article_id"]),
            "channel_id": integers_to_text(articles["publisher_id"]),
            "topics": pa.ListArray.from_arrays(one_each, category),
            "upload_time": epoch_to_time(articles["created_at_ts"], "ms"),
            "words_count": articles["words_count"],
        }
    )
