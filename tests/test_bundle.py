import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipelines import make_bundle
from pipelines.config import load_settings
from pipelines.paths import RunPaths
from recsys import verification
from recsys.bundle import Bundle
from recsys.core.onnx_weights import LEAST_BYTES
from recsys.errors import BundleError


@pytest.fixture
def copy(tiny_run, tmp_path):
    target = tmp_path / "bundle"
    shutil.copytree(tiny_run / "bundle", target, ignore=shutil.ignore_patterns("step.json"))
    return target


def change_manifest(directory, **changes):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(manifest))
    return manifest


def test_untouched_bundle_loads(copy):
    bundle = Bundle.load(copy)
    assert bundle.bundle_id == json.loads((copy / "manifest.json").read_text())["bundle_id"]
    assert len(bundle.catalogue) == 150


def files_of(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in files if path.name != "step.json")


def test_every_altered_file_is_refused_by_name(copy):
    for path in files_of(copy):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(BundleError, match=re.escape(path.name)):
            Bundle.load(copy)
        path.write_bytes(content)


def test_truncated_missing_and_added_files_are_refused_by_name(copy):
    path = copy / "candidates" / "item_vectors.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"item_vectors\.npy.*altered"):
        Bundle.load(copy)
    path.unlink()
    with pytest.raises(BundleError, match=r"item_vectors\.npy.*missing"):
        Bundle.load(copy)
    path.write_bytes(content)
    (copy / "extra.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra\.pkl.*not in the manifest"):
        Bundle.load(copy)


def test_unknown_format_is_refused_by_number(copy):
    change_manifest(copy, format=99)
    with pytest.raises(BundleError, match="99"):
        Bundle.load(copy)


def test_other_artefact_is_no_bundle(tiny_run):
    with pytest.raises(BundleError, match="expected a bundle"):
        Bundle.load(tiny_run / "prepared")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.load(tiny_run / "nowhere")


def test_same_inputs_give_the_same_bytes(tiny_run, tmp_path):
    settings = load_settings(Path(__file__).with_name("tiny.toml"))
    make_bundle.main(settings, RunPaths(tiny_run), tmp_path)
    made = {str(path.relative_to(tmp_path)): path.read_bytes() for path in files_of(tmp_path)}
    first = tiny_run / "bundle"
    for name, content in made.items():
        assert content == (first / name).read_bytes(), name


def test_bundle_holds_arrays_graphs_and_text_only(tiny_run):
    suffixes = {path.suffix for path in files_of(tiny_run / "bundle")}
    assert suffixes <= {".npy", ".onnx", ".json", ".parquet", ".faiss"}


def test_equal_files_are_one_and_hashed_once(tiny_run, monkeypatch):
    directory = tiny_run / "bundle"
    of_net, of_index = (
        directory / "candidates" / "item_vectors.npy",
        directory / "index" / "vectors.npy",
    )
    assert of_net.samefile(of_index)
    assert not of_net.samefile(directory / "popular.npy")
    hashed, genuine = [], verification.hash_file
    monkeypatch.setattr(
        verification, "hash_file", lambda path: hashed.append(path) or genuine(path)
    )
    Bundle.load(directory)
    assert (of_net in hashed) != (of_index in hashed)
    every = {path.stat().st_ino for path in files_of(directory) if path.name != "manifest.json"}
    assert len(hashed) == len(every)


def test_weights_lie_beside_their_graph(tiny_run, tmp_path):
    graph = tiny_run / "candidates" / "user_tower.onnx"
    large = tmp_path / "ranker.onnx"
    model = onnx.load(graph)
    extra = np.zeros(LEAST_BYTES, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(extra, "extra"))
    onnx.save_model(model, large)
    parts = {"ranking/ranker.onnx": large, "popular.npy": tiny_run / "bundle" / "popular.npy"}
    found = make_bundle._with_weights_apart(parts, tmp_path / "scratch")
    assert sorted(found) == ["popular.npy", "ranking/ranker.onnx", "ranking/ranker.onnx.data"]
    assert found["popular.npy"] == parts["popular.npy"]
    assert found["ranking/ranker.onnx"].stat().st_size < LEAST_BYTES
    assert found["ranking/ranker.onnx.data"].stat().st_size >= extra.nbytes
