"""What a column of someone's own file is, judged by its name, and by its values where need be."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NAMES = {
    "user_id": "user_id uid user visitor_id customer_id viewer_id member_id reviewer_id account_id",
    "item_id": "item_id iid item video_id movie_id article_id product_id content_id asin track_id "
    "parent_asin click_article_id news_id",
    "event_time": "event_time timestamp time ts datetime date_time event_timestamp time_ms "
    "click_timestamp watched_at viewed_at created_at unix_review_time unixtime",
    "sequence": "sequence seq pos order step",
    "event_id": "event_id impression_id log_id",
    "session_id": "session_id session",
    "request_id": "request_id",
    "clicked": "clicked is_click click is_clicked",
    "watch_ms": "watch_ms play_time_ms watch_time watch_time_ms watch_seconds play_time "
    "play_seconds watched dwell_time dwell_ms playing_time play_duration watch_duration",
    "duration_ms": "duration_ms duration video_duration length_ms duration_seconds length "
    "video_length runtime",
    "position": "position rank slot",
    "surface": "surface tab page placement",
    "device": "device device_type device_group platform click_device_group",
    "country": "country country_code click_country",
    "language": "language lang locale",
    "query": "query search search_term search_query keywords",
    "title": "title name headline",
    "channel_id": "channel_id channel author_id author creator_id publisher_id uploader brand",
    "topics": "topics tags tag genres genre categories category category_id",
    "upload_time": "upload_time uploaded_at upload_dt published_at publish_time release_date "
    "created_at created_at_ts",
    "gender": "gender sex",
    "birth_year": "birth_year year_of_birth",
}
"""Contract name -> names that such columns have elsewhere, likeliest first; case is ignored."""


def guess_columns(sample: pa.Table, wanted: list[str]) -> dict[str, str]:
    """Map contract names to columns: their own name first, then the likeliest other one."""
    by_plain = {_plain(name): name for name in reversed(sample.column_names)}
    found: dict[str, str] = {}
    for contract_name in wanted:
        for candidate in NAMES.get(contract_name, contract_name).split():
            raw = by_plain.get(_plain(candidate))
            if (
                raw is not None
                and raw not in found.values()
                and _is_fit(contract_name, sample, raw)
            ):
                found[contract_name] = raw
                break
    return found


def _is_fit(contract_name: str, sample: pa.Table, raw: str) -> bool:
    """Return whether the values of a column could be what its name says."""
    if contract_name in ("user_id", "item_id", "channel_id"):
        return not pa.types.is_floating(sample[raw].type)
    if contract_name == "event_time" and _is_numeric(sample, raw):
        return time_unit(sample, raw) is not None
    if contract_name in ("watch_ms", "duration_ms", "sequence", "position", "birth_year"):
        return _is_numeric(sample, raw)
    return True


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _numbers(sample: pa.Table, raw: str) -> np.ndarray | None:
    """Return the values of a column, numbers or text of numbers, or None if they are not."""
    column = sample[raw].drop_null()
    if not (_is_number(column.type) or is_string(column.type)):
        return None
    try:
        values = column.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return values[np.isfinite(values)] if np.isfinite(values).any() else None


def _is_number(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(data_type) or pa.types.is_floating(data_type))


def _is_numeric(sample: pa.Table, raw: str) -> bool:
    return _numbers(sample, raw) is not None


def time_unit(sample: pa.Table, raw: str) -> str | None:
    """Return the unit in which numbers lie between 1990 and 2100, if any."""
    values = _numbers(sample, raw)
    if values is None:
        return None
    typical = float(np.median(values))
    for unit, per_second in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
        if 6.3e8 <= typical / per_second <= 4.1e9:
            return unit
    return None


def is_naive(column: pa.ChunkedArray) -> bool:
    """Return whether times, typed or as ISO text, state no zone."""
    if pa.types.is_timestamp(column.type):
        return column.type.tz is None
    if pa.types.is_date(column.type):
        return True
    if not is_string(column.type):
        return False
    first = column.drop_null()
    zoned = r"(Z|[+-][0-9]{2}:?[0-9]{2})$"
    return len(first) > 0 and re.search(zoned, first[0].as_py()[10:]) is None


def is_seconds(sample: pa.Table, raw: str) -> bool:
    """Return whether durations are in seconds rather than milliseconds."""
    plain = _plain(raw)
    if plain.endswith(("ms", "millis", "milliseconds")):
        return False
    values = _numbers(sample, raw)
    # A typical watch lasts seconds to an hour: below 5,000 it can hardly be in milliseconds.
    return plain.endswith(("seconds", "sec", "secs")) or (
        values is not None and float(np.quantile(values, 0.9)) < 5_000
    )


def likely_separator(column: pa.ChunkedArray) -> str:
    """Return which of `|`, `;` and `,` is most frequent in a column of text."""
    text = column.cast(pa.string())
    counts = {mark: pc.sum(pc.count_substring(text, mark)).as_py() or 0 for mark in "|;,"}
    return max(counts, key=lambda mark: counts[mark])


def is_string(data_type: pa.DataType) -> bool:
    """Return whether a type is one of strings."""
    return bool(pa.types.is_string(data_type) or pa.types.is_large_string(data_type))
