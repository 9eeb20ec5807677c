"""Bundles that somebody tampered with, and what must hold of each: it is refused by name, or it
loads and answers; nothing else.

A mutation changes files or the manifest of a copy. It is then either left so (the hashes tell),
or sealed anew as an attacker would who can write, but not sign: `reseal`.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import strategies as st

from recsys.artefacts import MANIFEST, hash_file, list_files
from recsys.errors import BundleError
from recsys.verification import bundle_id_of
from serving.metrics import Metrics
from serving.reload import Bundles, load_recommender
from serving.store import MemoryStore

NOW = 1_800_000_000_000_000
"""Microseconds since the epoch."""
Mutation = Callable[[Path], None]
"""Changes a bundle's directory in place."""

HOSTILE_VALUES = st.sampled_from(
    [None, True, -1, 0, 2**31, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "x", "\0"]
    + [[], [[]], {}, {"": None}, "../../escape", "/dev/zero", "\ud800", [0] * 1000]
)
HOSTILE_NAMES = st.sampled_from(
    ["../escape", "/dev/zero", "..", ".", "", "a/../b", "\0", "\ud800", "x" * 5000, "manifest.json"]
)
NATIVE_SUFFIXES = (".onnx", ".faiss")
"""Parsed by native code that does not promise to survive hostile bytes: that is what signatures
are for. A mutation of these is never sealed anew here."""


def reseal(directory: Path) -> dict[str, Any]:
    """Make the manifest true of the files as they are now; return it."""
    path = directory / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"] = {str(name): hash_file(directory / name) for name in list_files(directory)}
    manifest["bundle_id"] = bundle_id_of(manifest)
    path.write_text(json.dumps(manifest))
    return manifest


def is_refused(directory: Path, trusted_keys: Sequence[Ed25519PublicKey] = ()) -> bool:
    """Activate a bundle as a server does, warm-up users included; return whether it was refused.

    Any error but a refusal that names the bundle goes through to the caller.
    """
    load = partial(load_recommender, trusted_keys=trusted_keys)
    bundles = Bundles(MemoryStore(), Metrics(), lambda: NOW, load)
    try:
        bundles.activate_directory(directory)
    except BundleError as error:
        if str(directory) not in str(error):
            raise AssertionError(f"a refusal that does not name the bundle: {error}") from error
        return True
    return False


@st.composite
def mutations(draw: st.DrawFn, names: list[str]) -> Mutation:
    """Draw a mutation that changes at least one byte, name or kind of file.

    Args:
        draw: Of hypothesis.
        names: The bundle's files but its manifest.
    """
    kind = draw(st.sampled_from([_flips, _cuts, _swaps, _renames, _additions, _links]))
    return draw(kind(names))


@st.composite
def contents(draw: st.DrawFn, names: list[str]) -> Mutation:
    """Draw a mutation of what Python reads, to be sealed anew."""
    plain = [name for name in names if not name.endswith(NATIVE_SUFFIXES)]
    kind = draw(st.sampled_from([_flips, _cuts, _swaps, _json_values, _array_headers]))
    return draw(kind(plain))


@st.composite
def manifests(draw: st.DrawFn) -> Mutation:
    """Draw a mutation of the manifest, whose id is made good where it can be."""
    kind = draw(st.sampled_from(["value", "name", "drop", "hash", "text"]))
    key = draw(st.sampled_from(["bundle_id", "files", "format", "kind", "data_until", "versions"]))
    value, name = draw(HOSTILE_VALUES), draw(HOSTILE_NAMES)
    text = draw(st.sampled_from(["", "{", "[" * 100_000, "7", '{"a":' * 2000, "\ufeff{}"]))

    def change(directory: Path) -> None:
        path = directory / MANIFEST
        manifest = json.loads(path.read_text())
        if kind == "value":
            manifest[key] = value
        elif kind == "name":
            manifest["files"][name] = "0" * 64
        elif kind == "drop":
            del manifest[key]
        elif kind == "hash":
            manifest["files"][sorted(manifest["files"])[0]] = value
        if kind != "text" and key != "bundle_id":
            _make_id_good(manifest)
        path.write_text(text if kind == "text" else json.dumps(manifest))

    return change


def _make_id_good(manifest: dict[str, Any]) -> None:
    try:
        manifest["bundle_id"] = bundle_id_of(manifest)
    except ValueError:  # NaN has no canonical form
        return


def copy_bundle(source: Path, target: Path) -> Path:
    """Replace `target` by a fresh copy of a bundle, and return it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("step.json"))
    return target


@st.composite
def _flips(draw: st.DrawFn, names: list[str]) -> Mutation:
    name, place = draw(st.sampled_from(names)), draw(st.floats(0, 1, exclude_max=True))
    flip = draw(st.integers(1, 255))

    def change(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[int(place * len(content))] ^= flip
        (directory / name).write_bytes(content)

    return change


@st.composite
def _cuts(draw: st.DrawFn, names: list[str]) -> Mutation:
    name, share = draw(st.sampled_from(names)), draw(st.floats(0, 1, exclude_max=True))

    def change(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(share * len(content))])

    return change


@st.composite
def _swaps(draw: st.DrawFn, names: list[str]) -> Mutation:
    one, other = draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))

    def change(directory: Path) -> None:
        contents = (directory / one).read_bytes(), (directory / other).read_bytes()
        # Files of equal content may be swapped by anybody: then one byte more tells.
        more = b"\0" if contents[0] == contents[1] else b""
        (directory / one).write_bytes(contents[1] + more)
        (directory / other).write_bytes(contents[0])

    return change


@st.composite
def _renames(draw: st.DrawFn, names: list[str]) -> Mutation:
    name = draw(st.sampled_from(names))
    is_kept = draw(st.booleans())

    def change(directory: Path) -> None:
        if is_kept:
            (directory / name).rename(directory / f"{name}.old")
        else:
            (directory / name).unlink()

    return change


@st.composite
def _additions(draw: st.DrawFn, names: list[str]) -> Mutation:
    folder = draw(st.sampled_from(sorted({str(Path(name).parent) for name in names})))
    name = draw(st.sampled_from(["extra.pkl", "extra.npy", "user_tower_9.onnx", "deep/x.json"]))
    content = draw(st.binary(max_size=20))

    def change(directory: Path) -> None:
        path = directory / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return change


@st.composite
def _links(draw: st.DrawFn, names: list[str]) -> Mutation:
    name = draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["file", "folder", "pipe", "loop"]))

    def change(directory: Path) -> None:
        path = directory / name
        outside = directory.parent / "outside"
        shutil.rmtree(outside, ignore_errors=True)
        # Without its manifest: a whole bundle beside the changed one would be taken in its place.
        shutil.copytree(path.parent, outside, ignore=shutil.ignore_patterns(MANIFEST))
        if kind == "folder":
            (directory / "vocabularies" / "linked").symlink_to(outside)
            return
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(outside / path.name if kind == "file" else path)

    return change


@st.composite
def _json_values(draw: st.DrawFn, names: list[str]) -> Mutation:
    name = draw(st.sampled_from([name for name in names if name.endswith(".json")]))
    steps, value = draw(st.lists(st.integers(0, 50), max_size=6)), draw(HOSTILE_VALUES)

    def change(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        changed = _with_value(content, steps, value)
        (directory / name).write_text(json.dumps(changed))

    return change


def _with_value(content: Any, steps: list[int], value: Any) -> Any:
    """Return JSON with the value that the steps lead to replaced by another."""
    if not steps or not content or not isinstance(content, (dict, list)):
        return value
    keys = sorted(content) if isinstance(content, dict) else range(len(content))
    key = keys[steps[0] % len(keys)]
    content[key] = _with_value(content[key], steps[1:], value)
    return content


@st.composite
def _array_headers(draw: st.DrawFn, names: list[str]) -> Mutation:
    name = draw(st.sampled_from([name for name in names if name.endswith(".npy")]))
    shape = draw(st.sampled_from(["()", "(0,)", "(-1,)", "(10**18,)", "(9" + "9" * 30 + ",)"]))
    dtype = draw(st.sampled_from(["<i4", "<f8", "|S7", "|O", "|V8", "<i4, <f4"]))

    def change(directory: Path) -> None:
        header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
        padded = header.ljust(117).encode() + b"\n"
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(b"\x93NUMPY\x01\x00v\x00" + padded + content[128:])

    return change
