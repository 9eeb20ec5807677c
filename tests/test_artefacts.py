import json

import numpy as np
import pytest

from recsys.artefacts import (
    canonical_json,
    hash_file,
    hash_json,
    list_files,
    load_arrays,
    new_directory,
    read_manifest,
    save_arrays,
    write_manifest,
)
from recsys.errors import ArtefactError


def test_directory_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "target"
    with new_directory(target) as directory:
        (directory / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_directory_is_replaced_whole(tmp_path):
    target = tmp_path / "target"
    for name in ("old", "new"):
        with new_directory(target) as directory:
            (directory / name).touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "target"
    with new_directory(target) as directory:
        (directory / "old").touch()
    with pytest.raises(RuntimeError), new_directory(target) as directory:
        (directory / "half").touch()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": 1, "a": [1.5]}) == canonical_json({"a": [1.5], "b": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_hash_file_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_file(tmp_path / "file") == expected


def test_manifest_hashes_every_other_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"abc")
    (tmp_path / "file").touch()
    written = write_manifest(tmp_path, "thing", 3, note="n")
    assert read_manifest(tmp_path, "thing", 3) == written
    assert list(written["files"]) == ["file", "sub/file"]
    assert written["files"]["sub/file"] == hash_file(tmp_path / "sub" / "file")
    assert [str(path) for path in list_files(tmp_path)] == ["file", "sub/file"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "found none"),
        ("{", "not readable as JSON"),
        ("[]", "found 'list'"),
        (json.dumps({"kind": "other", "format": 3}), "found 'other'"),
        (json.dumps({"kind": "thing", "format": 4}), "format 4 is not the format 3"),
        (json.dumps({"kind": "thing"}), "format None"),
    ],
)
def test_wrong_manifest_is_refused(content, problem, tmp_path):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ArtefactError, match=problem):
        read_manifest(tmp_path, "thing", 3)


@pytest.mark.parametrize("mapped", [True, False])
def test_arrays_come_back_with_their_types(mapped, tmp_path):
    arrays = {
        "deep/name": np.arange(3, dtype=np.int16),
        "none": np.zeros((0, 4), np.float32),
        "ids": np.array([b"a", b"bc"]),
        "one": np.array([7]),
    }
    save_arrays(tmp_path, arrays)
    loaded = load_arrays(tmp_path, mapped=mapped)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_objects_are_neither_written_nor_read(tmp_path):
    objects = np.array([{}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        save_arrays(tmp_path, {"objects": objects})
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    with pytest.raises(ArtefactError, match="objects"):
        load_arrays(tmp_path)


def test_truncated_array_is_named(tmp_path):
    save_arrays(tmp_path, {"array": np.arange(100)})
    content = (tmp_path / "array.npy").read_bytes()
    (tmp_path / "array.npy").write_bytes(content[:200])
    with pytest.raises(ArtefactError, match=r"array\.npy"):
        load_arrays(tmp_path)
