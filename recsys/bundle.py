"""The directory that a server needs, and nothing else: arrays, ONNX graphs, JSON.

A bundle is never changed after it is written. Its manifest holds the sha256 of every file, the
hashes of what it was made from, and library versions; its id is the hash of the canonical
manifest without id and signature. `load` verifies every byte before it parses any: see
`recsys.verification`. Parts that may be absent do not change the format: a bundle made before there
was `exploration/` is still read.

    manifest.json       format, hashes, parents, versions, data_until, validation metrics, id
    settings.json       the resolved configuration
    catalogue/          items in row order: ids, item table, watch counts
    vocabularies/NAME/  external values <-> embedding codes
    candidates/         user_tower.onnx (and user_tower_2.onnx ... of nets side by side), the large
                        weights of this and any graph beside it in user_tower.onnx.data,
                        item_vectors.npy, successors.npy (if the net is told)
    index/              what `recsys.index` saved
    ranking/            ranker.onnx, calibration, feature spec, heads (if ranked)
    item_features/      what the ranking net knows of each item
    exploration/        neural_process.onnx, calibration, feature spec (if trained); loaded only
                        where the settings order by it
    item_counters.npy   int64 [N, 5] as of data_until
    popular.npy         int32 rows, the fallback when retrieval fails
    sources/            co_visits/ (rows, similarity), recent_watches.npy: of the candidate sources
                        that are on
    warmup.json         user states that the server answers before it reports ready
"""

import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recsys.artefacts import MANIFEST, hash_json, load_arrays, save_arrays, write_manifest
from recsys.candidates.co_visits import CoVisits
from recsys.candidates.user_tower import UserTower
from recsys.data.catalogue import Catalogue
from recsys.data.examples import ITEM_COUNTERS
from recsys.data.prepared import Prepared
from recsys.data.vocabulary import Vocabulary
from recsys.errors import ArtefactError, BundleError, ConfigError
from recsys.exploration.predictor import Predictor
from recsys.index.base import Index, load_index
from recsys.ranking.items import ItemFeatures
from recsys.ranking.ranker import Ranker
from recsys.settings import RecsysSettings
from recsys.verification import FORMAT, KIND, bundle_id_of, read_manifest, verify_bundle

NUM_POPULAR = 1000
NUM_COUNTERS = len(ITEM_COUNTERS)
SETTINGS = "settings.json"
LIBRARIES = ("numpy", "onnxruntime", "pyarrow")


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle; all large arrays are memory-mapped.

    Args:
        bundle_id: Hash of the manifest.
        data_until: Moment up to which its counters count.
        item_vectors: float32 [n, D], of the trained items, or of all where items share features.
        successors: int32 [num_trained, L], what followed each item lately, oldest first; None where
            the net is not told.
        item_counters: int64 [N, 5], `ITEM_COUNTERS`.
        popular: int32 [<= 1000], rows by decreasing recent watches.
        co_visits: None where the candidate source `co_visitation` is off.
        recent_watches: float64 [N], weights of `recsys.recent_watches` as of data_until; None where
            the candidate source `recent_popularity` is off.
        ranker: None where the log has no watch time; items then stay in candidate order.
        process: The neural process, where the order is drawn from it.
        warmup_users: User states in the JSON form of `recsys.state_files`.
    """

    bundle_id: str
    manifest: dict[str, Any]
    settings: RecsysSettings
    data_until: int
    catalogue: Catalogue
    vocabularies: dict[str, Vocabulary]
    user_tower: UserTower
    item_vectors: np.ndarray
    successors: np.ndarray | None
    index: Index
    item_features: ItemFeatures
    item_counters: np.ndarray
    popular: np.ndarray
    co_visits: CoVisits | None
    recent_watches: np.ndarray | None
    ranker: Ranker | None
    process: Predictor | None
    warmup_users: list[dict[str, Any]]

    @classmethod
    def load(cls, directory: Path, *, trusted_keys: Sequence[Ed25519PublicKey] = ()) -> "Bundle":
        """Verify a bundle, then load it.

        Args:
            directory: The bundle.
            trusted_keys: Demand a signature by one of them; without any, none is looked at.

        Raises:
            BundleError: The directory is no bundle, of an unknown format, incomplete, altered,
                or not signed as demanded.
        """
        manifest = verify_bundle(directory, trusted_keys=trusted_keys)
        try:
            bundle = _parse(directory, manifest)
            _check_sizes(bundle)
        except ConfigError:  # what is missing is on this machine, not in the bundle
            raise
        except ArtefactError as error:
            raise BundleError(f"{directory}: verified, but not readable: {error}") from error
        except Exception as error:  # every parser has errors of its own
            raise BundleError(
                f"{directory}: verified, but not readable: {error!r}; make the bundle anew"
            ) from error
        return bundle


def write_bundle(
    target: Path,
    *,
    settings: RecsysSettings,
    prepared: Prepared,
    parts: Mapping[str, Path],
    item_features: ItemFeatures,
    popular: np.ndarray,
    sources: Mapping[str, np.ndarray],
    warmup_users: list[dict[str, Any]],
    parents: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """Assemble a bundle into an empty directory and return its manifest.

    Args:
        target: The directory.
        settings: The resolved configuration.
        prepared: Catalogue, vocabularies and counters.
        parts: Name in the bundle -> file or directory to copy (`candidates/user_tower.onnx`...).
        item_features: Tables of item features by catalogue row.
        popular: int32 rows, most popular first.
        sources: Arrays of the candidate sources that are on, by path below `sources/`.
        warmup_users: JSON-able user states.
        parents: Step -> identity of what this bundle was made from.
        metrics: Validation metrics by stage.
    """
    prepared.catalogue.save(target / "catalogue")
    for name, vocabulary in prepared.vocabularies.items():
        vocabulary.save(target / "vocabularies" / name)
    for name, source in parts.items():
        _copy(source, target / name)
    item_features.save(target / "item_features")
    np.save(target / "item_counters.npy", np.asarray(prepared.item_counters))
    np.save(target / "popular.npy", popular.astype(np.int32))
    if sources:
        save_arrays(target / "sources", sources)
    _write_json(target / SETTINGS, settings.model_dump(mode="json"))
    _write_json(target / "warmup.json", warmup_users)
    versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    manifest = write_manifest(
        target,
        KIND,
        FORMAT,
        data_until=prepared.data_until,
        parents=dict(parents),
        settings_hash=hash_json(settings.model_dump(mode="json")),
        versions=versions,
        metrics=dict(metrics),
    )
    manifest["bundle_id"] = bundle_id_of(manifest)
    _write_json(target / MANIFEST, manifest)
    _link_equal_files(target, manifest["files"])
    return manifest


def _link_equal_files(directory: Path, hashes: Mapping[str, str]) -> None:
    """Let equal files be one on the disk and in memory, such as vectors and those of the index."""
    names: dict[str, str] = {}
    for name, found in sorted(hashes.items()):
        first = names.setdefault(found, name)
        if first != name:
            with suppress(OSError):  # two files do as well, where links are not to be had
                link = directory / f"{name}.link"
                link.hardlink_to(directory / first)
                link.replace(directory / name)


def read_settings(directory: Path) -> RecsysSettings:
    """Read the settings that a bundle was made by.

    Raises:
        BundleError: The directory is no bundle, or of another format.
    """
    read_manifest(directory)
    try:
        return RecsysSettings.model_validate_json((directory / SETTINGS).read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"{directory}: its settings cannot be read: {error}") from None


def _parse(directory: Path, manifest: dict[str, Any]) -> Bundle:
    settings = RecsysSettings.model_validate_json((directory / SETTINGS).read_text())
    ranked = (directory / "ranking").is_dir()
    drawn = settings.serving.exploration.policy == "thompson"
    successors = directory / "candidates" / "successors.npy"
    sources = load_arrays(directory / "sources")
    return Bundle(
        bundle_id=manifest["bundle_id"],
        manifest=manifest,
        settings=settings,
        data_until=manifest["data_until"],
        catalogue=Catalogue.load(directory / "catalogue"),
        vocabularies={
            path.name: Vocabulary.load(path)
            for path in sorted((directory / "vocabularies").iterdir())
        },
        user_tower=UserTower(*sorted((directory / "candidates").glob("user_tower*.onnx"))),
        item_vectors=_load(directory / "candidates" / "item_vectors.npy"),
        successors=_load(successors) if successors.exists() else None,
        index=load_index(directory / "index"),
        item_features=ItemFeatures.load(directory / "item_features"),
        item_counters=_load(directory / "item_counters.npy"),
        popular=_load(directory / "popular.npy"),
        co_visits=CoVisits(sources["co_visits/rows"], sources["co_visits/similarity"])
        if "co_visits/rows" in sources
        else None,
        recent_watches=sources.get("recent_watches"),
        ranker=Ranker.load(directory / "ranking") if ranked else None,
        process=Predictor.load(directory / "exploration") if ranked and drawn else None,
        warmup_users=json.loads((directory / "warmup.json").read_text()),
    )


def _check_sizes(bundle: Bundle) -> None:
    """Refuse parts that do not belong together: otherwise a request would find that out."""
    num_items, num_vectors = len(bundle.catalogue), len(bundle.item_vectors)
    num_trained, features = bundle.catalogue.num_trained, bundle.item_features
    for what, found, expected in (
        ("rows of catalogue/items.parquet", bundle.catalogue.table.num_rows, num_items),
        ("shape of watch_counts.npy", bundle.catalogue.watch_counts.shape, (num_items,)),
        ("shape of item_counters.npy", bundle.item_counters.shape, (num_items, NUM_COUNTERS)),
        ("lengths of item_features", _lengths(features), {num_items}),
        ("dimensions of item_vectors.npy", bundle.item_vectors.ndim, 2),
        ("vectors in the index", len(bundle.index), num_vectors),
        ("dimensions of popular.npy", bundle.popular.ndim, 1),
        *_sizes_of_sources(bundle),
    ):
        if found != expected:
            raise ArtefactError(f"{what}: expected {expected}, found {found}")
    for what, low, values, high in (
        ("trained items", 0, np.array([num_trained]), num_vectors),
        ("item vectors", num_trained, np.array([num_vectors]), num_items),
        ("rows in popular.npy", 0, bundle.popular, num_items - 1),
        ("codes in item_features/code.npy", 0, features.code, num_items),
        ("item_features/channel.npy", -1, features.channel, features.num_channels - 1),
        ("rows in sources/co_visits", -1, _co_visited(bundle), num_items - 1),
    ):
        if len(values) and not low <= int(values.min()) <= int(values.max()) <= high:
            raise ArtefactError(f"{what}: expected {low} to {high}, found others")


def _sizes_of_sources(bundle: Bundle) -> Iterator[tuple[str, object, object]]:
    co_visits, recent = bundle.co_visits, bundle.recent_watches
    if co_visits is not None:
        shape = co_visits.rows.shape
        yield "dimensions of sources/co_visits/rows.npy", len(shape), 2
        yield "rows of sources/co_visits/rows.npy", shape[0], bundle.catalogue.num_trained
        yield "shape of sources/co_visits/similarity.npy", co_visits.similarity.shape, shape
    if recent is not None:
        yield "shape of sources/recent_watches.npy", recent.shape, (len(bundle.catalogue),)


def _co_visited(bundle: Bundle) -> np.ndarray:
    return np.zeros(0) if bundle.co_visits is None else bundle.co_visits.rows.ravel()


def _lengths(features: ItemFeatures) -> set[int]:
    every = [*features.codes.values(), *features.numeric.values(), features.code]
    every += [features.duration_ms, features.upload_time, features.channel, features.topics]
    return {len(values) for values in every}


def _load(path: Path) -> np.ndarray:
    # A plain view: each slice of a memory map costs ten times as much.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
