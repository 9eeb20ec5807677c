"""Before a byte is parsed: what a manifest must say, and that nothing runs ahead of it."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

from benchmarks.fuzzing.bundles import copy_bundle, reseal
from recsys.bundle import Bundle
from recsys.errors import BundleError
from recsys.index.base import build_index
from recsys.settings import IndexSettings, RecsysSettings
from recsys.verification import bundle_id_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tiny_run, tmp_path):
    return copy_bundle(tiny_run / "bundle", tmp_path / "bundle")


@pytest.fixture
def with_faiss(copy):
    """The bundle with a FAISS index in place of the exact one."""
    vectors = np.load(copy / "candidates" / "item_vectors.npy")
    settings = IndexSettings(kind="hnsw", recall_k=10, recall_floor=0.0)
    build_index(vectors, settings).save(copy / "index")
    reseal(copy)
    return copy


@pytest.fixture
def parsed(monkeypatch):
    """Names of the files that a parser was given, as they come."""
    import faiss

    seen = []

    def watch(owner, name):
        original = getattr(owner, name)

        def noted(source, *arguments, **options):
            seen.append(Path(str(source)).name)
            return original(source, *arguments, **options)

        monkeypatch.setattr(owner, name, noted)

    for owner, name in (
        (np, "load"),
        (pq, "ParquetFile"),
        (onnxruntime, "InferenceSession"),
        (faiss, "read_index"),
        (RecsysSettings, "model_validate_json"),
    ):
        watch(owner, name)
    return seen


def change_manifest(directory, **changes):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    if "bundle_id" not in changes:
        with contextlib.suppress(ValueError):  # NaN has no canonical form
            manifest["bundle_id"] = bundle_id_of(manifest)
    path.write_text(json.dumps(manifest))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_whole_bundle_reaches_every_parser(with_faiss, parsed):
    Bundle.load(with_faiss)
    assert {"index.faiss", "ranker.onnx", "items.parquet", "item_vectors.npy"} <= set(parsed)


@pytest.mark.parametrize(
    "name",
    ["index/index.faiss", "ranking/ranker.onnx", "warmup.json", "vocabularies/topics/ids.npy"],
)
def test_altered_file_is_refused_before_any_parser_sees_one(with_faiss, parsed, name):
    flip_a_byte(with_faiss / name)
    with pytest.raises(BundleError, match=f"{re.escape(name)}.*altered"):
        Bundle.load(with_faiss)
    assert parsed == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../popular.npy", "a\0b", "", "./x"])
def test_paths_that_lead_elsewhere_are_refused(copy, name):
    files = json.loads((copy / "manifest.json").read_text())["files"]
    change_manifest(copy, files=files | {name: "0" * 64})
    with pytest.raises(BundleError, match="no plain path within the bundle"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"files": []}, "expected files"),
        ({"files": {"x": 7}}, "expected files"),
        ({"bundle_id": None}, "expected a bundle_id"),
        ({"bundle_id": "0" * 64}, "altered"),
        ({"data_until": True}, "data_until"),
        ({"data_until": -1}, "data_until"),
        ({"data_until": 10**400}, "data_until"),
        ({"data_until": float("nan")}, "data_until"),
        ({"versions": float("nan")}, "altered"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(copy, changes, expected):
    change_manifest(copy, **changes)
    with pytest.raises(BundleError, match=expected):
        Bundle.load(copy)


@pytest.mark.parametrize("text", ["", "[" * 200_000, '{"a":' * 900 + "1" + "}" * 900, "1" * 9999])
def test_manifest_that_is_no_object_is_refused(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="manifest"):
        Bundle.load(copy)


def test_manifest_without_end_is_refused_unread(copy):
    with (copy / "manifest.json").open("w") as file:
        file.seek(1 << 34)
        file.write(" ")
    with pytest.raises(BundleError, match="at most"):
        Bundle.load(copy)


def test_links_pipes_and_folders_from_elsewhere_are_refused(copy, tmp_path):
    path = copy / "popular.npy"
    outside = tmp_path / "outside.npy"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(BundleError, match=r"popular\.npy.*link"):
        Bundle.load(copy)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match=r"popular\.npy.*device"):
        Bundle.load(copy)
    path.unlink()
    outside.rename(path)
    (copy / "vocabularies" / "more").symlink_to(copy / "vocabularies" / "topics")
    with pytest.raises(BundleError, match=r"vocabularies/more.*link"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("item_counters.npy", np.zeros((149, 5), np.int64)),
        ("popular.npy", np.array([150], np.int32)),
        ("popular.npy", np.array([-1], np.int32)),
        ("item_features/code.npy", np.full(150, 151, np.int32)),
        ("item_features/channel.npy", np.full(150, 10_000, np.int32)),
        ("item_features/upload_time.npy", np.zeros(1, np.int64)),
        ("catalogue/num_trained.npy", np.array([151])),
        ("catalogue/num_trained.npy", np.array([-1])),
        ("catalogue/watch_counts.npy", np.zeros(3, np.int64)),
        ("candidates/item_vectors.npy", np.zeros((3, 16), np.float32)),
        ("vocabularies/topics/rows.npy", np.zeros(15, np.int32)),
        ("vocabularies/topics/ids.npy", np.zeros(15, np.int32)),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(copy, name, array):
    np.save(copy / name, array)
    reseal(copy)
    with pytest.raises(BundleError, match="expected"):
        Bundle.load(copy)


WATCHED = """
import sys
from pathlib import Path
from recsys.bundle import Bundle
from recsys.errors import BundleError
import recsys.recommender
directory = Path(sys.argv[1])
try:
    Bundle.load(directory)  # whatever is imported late is imported now
except BundleError:
    pass
FORBIDDEN = ("pickle.", "marshal.", "exec", "code.", "subprocess.", "os.system", "os.exec",
    "os.spawn", "os.posix_spawn", "os.fork", "socket.", "ctypes.dlopen", "import", "shutil.")
seen = []
sys.addaudithook(lambda name, _: seen.append(name) if name.startswith(FORBIDDEN) else None)
try:
    Bundle.load(directory)
    print("loaded")
except BundleError as error:
    print("refused", error)
print(sorted(set(seen)))
__import__("pickle").loads(b"cos\\ngetcwd\\n.")
print("pickle.find_class" in seen)
"""


def load_watched(directory):
    """Load a bundle in a process of its own under an audit hook; return its three lines."""
    command = [sys.executable, "-c", WATCHED, str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_loading_a_bundle_runs_no_code_and_unpickles_nothing(with_faiss):
    assert load_watched(with_faiss) == ["loaded", "[]", "True"]


def test_pickle_in_place_of_an_array_is_refused_unread(copy, tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    np.save(copy / "popular.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    reseal(copy)
    outcome, events, _ = load_watched(copy)
    assert outcome.startswith("refused")
    assert events == "[]"
    assert not (tmp_path / "exploded").exists()
