"""MovieLens ratings: every rating is a watch that came from elsewhere, its watch time unknown.

Reads, below `path`, the first of these that is there:
  `ratings.dat` with `movies.dat` and `users.dat` (ML-1M and ML-10M as published),
  `ratings.csv` with `movies.csv` (ML-20M and later),
  `sequences.parquet` (user_id, pos, movie_id: order only) with `movies.parquet`, `users.parquet`.
A rating is kept as the further column `rating`; equal times keep the order of the file. Genres
are topics. The published age is a bucket (1 means under 18), so it stays a string, `age_bucket`.
There are no options.

Reference: Harper & Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from recsys.data.files import read_files, read_whole
from recsys.data.log import FileProblems, Log
from recsys.data.schema import with_origin
from recsys.data.sources.columns import (
    check_options,
    constant,
    epoch_to_time,
    integers_to_text,
    log_path,
    row_numbers,
    split_text,
)
from recsys.errors import DataError
from recsys.settings import DataSettings

_RATING_TYPES = {
    "userId": pa.int64(),
    "movieId": pa.int64(),
    "rating": pa.float32(),
    "timestamp": pa.int64(),
}
_NO_GENRE = "(no genres listed)"


def read(settings: DataSettings, seed: int) -> Log:
    """Open the ratings; `seed` is not used."""
    del seed
    check_options(settings, ())
    path, problems = log_path(settings), FileProblems()
    openers: dict[str, Callable[[Path, FileProblems], Log]] = {
        "ratings.dat": _open_dat,
        "ratings.csv": _open_csv,
        "sequences.parquet": _open_sequences,
    }
    for name, opener in openers.items():
        if (path / name).is_file():
            return opener(path, problems)
    raise DataError(f"{path}: expected one of {list(openers)} there, found none")


def _open_dat(path: Path, problems: FileProblems) -> Log:
    def events() -> Iterator[pa.Table]:
        return _rated(_read_dat_ratings(path / "ratings.dat"))

    users = path / "users.dat"
    items = _movies(_read_dat(path / "movies.dat", ("movie", "title", "genres")))
    return Log(
        events,
        items=items,
        users=_users(_read_dat(users, ("userID", "gender", "age", "occupation", "zipcode")))
        if users.is_file()
        else None,
        problems=problems,
    )


def _open_csv(path: Path, problems: FileProblems) -> Log:
    def events() -> Iterator[pa.Table]:
        return _rated(read_files([path / "ratings.csv"], problems, types=_RATING_TYPES))

    types = {"movieId": pa.string(), "title": pa.string(), "genres": pa.string()}
    movies = read_whole([path / "movies.csv"], problems, types=types)
    return Log(events, items=_movies(movies), problems=problems)


def _open_sequences(path: Path, problems: FileProblems) -> Log:
    def events() -> Iterator[pa.Table]:
        return map(_ordered, read_files([path / "sequences.parquet"], problems))

    movies, users = path / "movies.parquet", path / "users.parquet"
    return Log(
        events,
        items=_movies(read_whole([movies], problems)) if movies.is_file() else None,
        users=_users(read_whole([users], problems)) if users.is_file() else None,
        problems=problems,
    )


def _rated(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    first = 0
    for ratings in batches:
        yield pa.table(
            {
                "user_id": integers_to_text(ratings["userId"]),
                "item_id": integers_to_text(ratings["movieId"]),
                "event_time": epoch_to_time(ratings["timestamp"], "s"),
                "sequence": row_numbers(first, ratings.num_rows),
                "is_impression": constant(False, ratings.num_rows),
                "rating": ratings["rating"],
            },
            metadata=ratings.schema.metadata,
        )
        first += ratings.num_rows


def _ordered(sequences: pa.Table) -> pa.Table:
    return pa.table(
        {
            "user_id": integers_to_text(sequences["user_id"]),
            "item_id": integers_to_text(sequences["movie_id"]),
            "sequence": sequences["pos"],
            "is_impression": constant(False, sequences.num_rows),
        },
        metadata=sequences.schema.metadata,
    )


def _read_dat_ratings(file: Path) -> Iterator[pa.Table]:
    # '::' is no single character: read as ':', it gives an empty column between two others.
    names = ["userId", "a", "movieId", "b", "rating", "c", "timestamp"]
    try:
        with pa_csv.open_csv(
            file,
            read_options=pa_csv.ReadOptions(column_names=names),
            parse_options=pa_csv.ParseOptions(delimiter=":"),
            convert_options=pa_csv.ConvertOptions(
                column_types=_RATING_TYPES, include_columns=list(_RATING_TYPES)
            ),
        ) as batches:
            for batch in batches:
                yield with_origin(pa.Table.from_batches([batch]), str(file), is_text=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file}: expected lines of user::movie::rating::time: {error}") from None


def _read_dat(file: Path, names: tuple[str, ...]) -> pa.Table:
    lines = file.read_text(encoding="latin-1").splitlines()
    rows = [line.split("::") for line in lines if line]
    wrong = [line for line, row in zip(lines, rows, strict=False) if len(row) != len(names)]
    if wrong:
        raise DataError(f"{file}: expected {len(names)} fields with '::' between, got {wrong[0]!r}")
    columns = zip(*rows, strict=True)
    return pa.table({name: list(column) for name, column in zip(names, columns, strict=True)})


def _movies(movies: pa.Table) -> pa.Table:
    genres = movies["genres"].cast(pa.string())
    genres = pc.if_else(pc.equal(genres, _NO_GENRE), None, genres)
    year = pc.struct_field(pc.extract_regex(movies["title"], r"\((?P<year>\d{4})\)\s*$"), "year")
    return pa.table(
        {
            "item_id": integers_to_text(movies[0]),
            "title": movies["title"].cast(pa.string()),
            "topics": split_text(genres, "|"),
            "release_year": year.cast(pa.int64()),
        },
        metadata=movies.schema.metadata,
    )


def _users(users: pa.Table) -> pa.Table:
    return pa.table(
        {
            "user_id": integers_to_text(users["userID"]),
            "gender": users["gender"].cast(pa.string()),
            "age_bucket": integers_to_text(users["age"]),
            "occupation": integers_to_text(users["occupation"]),
            "zipcode": users["zipcode"].cast(pa.string()),
        },
        metadata=users.schema.metadata,
    )
