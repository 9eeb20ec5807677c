"""State directories: a round trip, and what is refused."""

from dataclasses import fields

import numpy as np
import pytest

from recsys import state_files
from recsys.errors import ArtefactError
from recsys.state import EVENT_DTYPES, UserEvents, UserState
from recsys.state_files import (
    find_states,
    read_manifest_of_states,
    read_states,
    state_from_json,
    state_to_json,
    write_states,
)


def user(number):
    rng = np.random.default_rng(number)
    columns = {}
    for name, dtype in EVENT_DTYPES.items():
        values = rng.integers(0, 2 if dtype is np.bool_ else 100, number)
        text = [f"id-{value}-é".encode() if value % 7 else b"" for value in values]
        columns[name] = np.array(text or [], dtype) if dtype is np.bytes_ else values.astype(dtype)
    return UserState(
        f"user-{number}",
        UserEvents(**columns),
        tuple((f"query {n}", n) for n in range(number)),
        {"country": "NL", "birth_year": 1990.0} if number else {},
        frozenset(f"seen-{n}" for n in range(number)),
    )


def assert_equal(found, expected):
    for name in ("user_id", "searches", "attributes", "seen"):
        assert getattr(found, name) == getattr(expected, name)
    for column in fields(UserEvents):
        mine, yours = getattr(found.events, column.name), getattr(expected.events, column.name)
        assert mine.dtype.kind == yours.dtype.kind
        np.testing.assert_array_equal(mine, yours)


@pytest.mark.parametrize("num_users", [0, 1, 5])
def test_states_come_back_as_they_were_written(tmp_path, monkeypatch, num_users):
    monkeypatch.setattr(state_files, "USERS_PER_GROUP", 2)
    monkeypatch.setattr(state_files, "GROUPS_PER_FILE", 1)
    users = [user(number) for number in range(num_users)]
    write_states(tmp_path / "state", iter(users), 77)
    found = list(read_states(tmp_path / "state"))
    assert len(found) == num_users
    for mine, yours in zip(found, users, strict=True):
        assert_equal(mine, yours)
    manifest = read_manifest_of_states(tmp_path / "state")
    assert (manifest["data_until"], manifest["num_users"]) == (77, num_users)
    assert len(manifest["files"]) == (num_users + 1) // 2


def test_some_users_are_found_by_id(tmp_path):
    write_states(tmp_path / "state", [user(number) for number in range(4)], 77)
    found = find_states(tmp_path / "state", ["user-2", "nobody"])
    assert list(found) == ["user-2"]
    assert_equal(found["user-2"], user(2))


def test_state_goes_through_json():
    for number in (0, 3):
        assert_equal(state_from_json(state_to_json(user(number))), user(number))


def test_altered_file_is_refused(tmp_path):
    write_states(tmp_path / "state", [user(3)], 77)
    path = tmp_path / "state" / "users-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match="not what manifest"):
        list(read_states(tmp_path / "state"))


def test_missing_directory_is_refused_by_name(tmp_path):
    with pytest.raises(ArtefactError, match="state directory"):
        list(read_states(tmp_path / "nothing"))
