"""KuaiRand short-video impressions (Pure, 1K, 27K): watch time, feedback, users and videos.

Reads, below `path`, either the original files (`log_standard_*.csv`, `log_random_*.csv`,
`user_features_*.csv`, `video_features_basic_*.csv`) or Parquet (`impressions.parquet`,
`histories.parquet`, `users.parquet`, `videos.parquet`). There are no options.

Impressions: `tab` is the surface, `play_time_ms` the watch time; `long_view` and the feedback
(`liked`, `followed`, ...) are further columns. `policy` says which of the two served it; there
are no propensities and no positions. The log splits on its own `date` column (China's), which
is kept as `split_date`; `event_time` is UTC. `video_features_statistic_*` is not read: its
counts cover the test days too.

Histories give, for each user, the last videos shown before the impressions begin (`watch_seq`),
and the last long-viewed and the last liked ones, in order and without times. They become
impressions with a `sequence` and an unknown watch time: first the liked, then the long-viewed
videos that are older than the window of shown ones, then the window. `long_view` is true for
the ids in the list of long views, false for others of the window, unknown for the old likes;
`liked` likewise.

Reference: Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly
Exposed Videos, CIKM 2022.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.files import find_files, read_files, read_whole
from recsys.data.log import FileProblems, Log
from recsys.data.schema import TIME
from recsys.data.sources.columns import (
    check_options,
    conform,
    constant,
    epoch_to_time,
    flags,
    integers_to_text,
    log_path,
    split_text,
    whole_numbers_to_text,
)
from recsys.settings import DataSettings

_EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_time", TIME),
        ("sequence", pa.int64()),
        ("clicked", pa.bool_()),
        ("watch_ms", pa.int64()),
        ("duration_ms", pa.int64()),
        ("surface", pa.string()),
        ("policy", pa.string()),
        ("split_date", pa.string()),
        ("long_view", pa.bool_()),
        ("liked", pa.bool_()),
        ("followed", pa.bool_()),
        ("commented", pa.bool_()),
        ("forwarded", pa.bool_()),
        ("hated", pa.bool_()),
        ("profile_entered", pa.bool_()),
        ("profile_stay_time", pa.int64()),
        ("comment_stay_time", pa.int64()),
    ]
)
_FLAGS = {
    "clicked": "is_click",
    "long_view": "long_view",
    "liked": "is_like",
    "followed": "is_follow",
    "commented": "is_comment",
    "forwarded": "is_forward",
    "hated": "is_hate",
    "profile_entered": "is_profile_enter",
}
_AS_THEY_ARE = {
    "watch_ms": "play_time_ms",
    "duration_ms": "duration_ms",
    "profile_stay_time": "profile_stay_time",
    "comment_stay_time": "comment_stay_time",
}
_CODES = ("user_id", "video_id", "tab", "date", "time_ms", "is_rand")
_LOG_TYPES = dict.fromkeys((*_CODES, *_FLAGS.values(), *_AS_THEY_ARE.values()), pa.int64())
_USER_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_CHINA = "+08:00"


def read(settings: DataSettings, seed: int) -> Log:
    """Open the impressions, and the histories before them; `seed` is not used."""
    del seed
    check_options(settings, ())
    path, problems = log_path(settings), FileProblems()
    files, histories = _log_files(path), path / "histories.parquet"

    def events() -> Iterator[pa.Table]:
        if histories.is_file():
            yield from map(_past_events, read_files([histories], problems))
        columns = list(_LOG_TYPES)
        yield from map(_events, read_files(files, problems, types=_LOG_TYPES, columns=columns))

    users = _side_files(path, "users.parquet", "user_features_*.csv")
    videos = _side_files(path, "videos.parquet", "video_features_basic_*.csv")
    text = {"tag": pa.string(), "upload_dt": pa.string()}
    return Log(
        events,
        items=_items(read_whole(videos, problems, types=text)) if videos else None,
        users=_users(read_whole(users, problems, types={})) if users else None,
        problems=problems,
    )


def _log_files(path: Path) -> list[Path]:
    parquet = path / "impressions.parquet"
    return [parquet] if parquet.is_file() else find_files(path, "log_*.csv")


def _side_files(path: Path, parquet: str, pattern: str) -> list[Path]:
    return [path / parquet] if (path / parquet).is_file() else sorted(path.rglob(pattern))


def _events(log: pa.Table) -> pa.Table:
    columns = {name: flags(log[raw]) for name, raw in _FLAGS.items()}
    columns |= {name: log[raw] for name, raw in _AS_THEY_ARE.items()}
    columns |= {
        "user_id": integers_to_text(log["user_id"]),
        "item_id": integers_to_text(log["video_id"]),
        "event_time": epoch_to_time(log["time_ms"], "ms"),
        "surface": integers_to_text(log["tab"]),
        "policy": pc.if_else(flags(log["is_rand"]), "random", "standard"),
        "split_date": integers_to_text(log["date"]),
    }
    return conform(pa.table(columns, metadata=log.schema.metadata), _EVENTS)


def _past_events(histories: pa.Table) -> pa.Table:
    """Turn one row a user into one row a video, each user's in order."""
    user = np.arange(histories.num_rows)
    shown, long_viewed, liked = (
        _flatten(histories[name]) for name in ("watch_seq", "long_watch_seq", "like_seq")
    )
    old_long = _keep(long_viewed, ~_among(long_viewed, shown))
    old_liked = _keep(liked, ~(_among(liked, shown) | _among(liked, long_viewed)))
    parts = [old_liked, old_long, shown]
    owner, item = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    order = np.argsort(owner, kind="stable")
    owner, item = owner[order], item[order]
    is_old_like = (np.arange(len(order)) < len(old_liked[0]))[order]
    long_view = pa.array(_among((owner, item), long_viewed), mask=is_old_like)
    columns = {
        "user_id": integers_to_text(histories["user_id"]).take(pa.array(owner)),
        "item_id": pa.array(item).cast(pa.string()),
        "sequence": pa.array(np.arange(len(owner)) - np.searchsorted(owner, user)[owner]),
        "long_view": long_view,
        "liked": pa.array(_among((owner, item), liked)),
    }
    return conform(pa.table(columns, metadata=histories.schema.metadata), _EVENTS)


Owned = tuple[np.ndarray, np.ndarray]
"""int64 [n] row of the user, int64 [n] item."""


def _flatten(lists: pa.ChunkedArray) -> Owned:
    lists = lists.combine_chunks()
    owner = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    return owner.astype(np.int64), pc.list_flatten(lists).to_numpy(zero_copy_only=False)


def _keep(owned: Owned, chosen: np.ndarray) -> Owned:
    return owned[0][chosen], owned[1][chosen]


def _among(owned: Owned, others: Owned) -> np.ndarray:
    """Return whether each (user, item) pair is one of the others: bool [n]."""
    if len(owned[0]) == 0 or len(others[0]) == 0:
        return np.zeros(len(owned[0]), bool)
    num_items = 1 + max(int(owned[1].max()), int(others[1].max()))
    keys, known = (pair[0] * num_items + pair[1] for pair in (owned, others))
    known.sort()  # several times faster here than numpy.isin, which hashes
    nearest = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[nearest] == keys)


def _items(videos: pa.Table) -> pa.Table:
    # The upload day begins at midnight in China, eight hours before midnight UTC.
    day = pc.if_else(pc.equal(pc.utf8_length(videos["upload_dt"]), 10), videos["upload_dt"], None)
    columns = {
        "item_id": integers_to_text(videos["video_id"]),
        "channel_id": integers_to_text(videos["author_id"]),
        "topics": split_text(videos["tag"], ","),
        "duration_ms": videos["video_duration"],
        "upload_time": pc.binary_join_element_wise(
            day.cast(pa.string()), constant(f"T00:00:00{_CHINA}", len(day)), ""
        ).cast(TIME),
    }
    for name in ("video_type", "upload_type"):
        columns[name] = videos[name].cast(pa.string())
    for name in ("music_id", "music_type", "visible_status"):
        columns[name] = whole_numbers_to_text(videos[name])
    columns |= {name: videos[name] for name in ("server_width", "server_height")}
    return pa.table(columns, metadata=videos.schema.metadata)


def _users(users: pa.Table) -> pa.Table:
    columns = {"user_id": integers_to_text(users["user_id"])}
    for name in users.column_names:
        if name in _USER_COUNTS:
            columns[name] = users[name]
        elif name != "user_id":
            is_number = pa.types.is_integer(users[name].type) or pa.types.is_floating(
                users[name].type
            )
            text = whole_numbers_to_text if is_number else lambda column: column.cast(pa.string())
            columns[name] = text(users[name])
    return pa.table(columns, metadata=users.schema.metadata)
