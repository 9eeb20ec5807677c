"""The files of a saved index: `vectors.npy`, perhaps `index.faiss`, and `index.json`."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from recsys.artefacts import save_arrays
from recsys.errors import ArtefactError
from recsys.settings import IndexSettings

DESCRIPTION = "index.json"
VECTORS = "vectors"
FORMAT = 1


@dataclass(frozen=True)
class Description:
    """What `index.json` says.

    Args:
        settings: As resolved: never `auto`, and with the probes that were chosen.
        recall: Measured share of the true best that the index finds.
    """

    settings: IndexSettings
    recall: float | None


def write_files(directory: Path, vectors: np.ndarray, description: Description) -> None:
    """Write the vectors and the description of an index."""
    save_arrays(directory, {VECTORS: np.asarray(vectors)})
    content = {
        "format": FORMAT,
        "kind": description.settings.kind,
        "num_vectors": len(vectors),
        "width": vectors.shape[1],
        "recall": description.recall,
        "settings": description.settings.model_dump(mode="json"),
    }
    text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False)
    (directory / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_files(directory: Path) -> tuple[np.ndarray, Description]:
    """Map the vectors, float32 [N, D], and read the description of a saved index.

    Raises:
        ArtefactError: A file is missing or broken, of another format, or they do not match.
    """
    content = _read_content(directory)
    try:
        settings = IndexSettings.model_validate(content["settings"])
        mapped = np.load(directory / f"{VECTORS}.npy", mmap_mode="r", allow_pickle=False)
        vectors = np.asarray(mapped)  # a plain view, which is sliced in a tenth of the time
        expected = (content["num_vectors"], content["width"])
        recall = content["recall"]
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise ArtefactError(
            f"{directory}: the saved index is not readable ({error}); build the index anew"
        ) from None
    if vectors.shape != expected or vectors.dtype != np.float32:
        raise ArtefactError(
            f"{directory}: expected vectors float32 {list(expected)} by {DESCRIPTION}, found "
            f"{vectors.dtype} {list(vectors.shape)}; build the index anew"
        )
    return vectors, Description(settings, recall)


def _read_content(directory: Path) -> dict:
    path = directory / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ArtefactError(
            f"{directory}: expected a saved index with {DESCRIPTION}, found none; "
            f"run the index step first"
        ) from None
    except ValueError as error:
        raise ArtefactError(f"{path}: not readable as JSON ({error}); build anew") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise ArtefactError(
            f"{path}: index format {found!r} is not the format {FORMAT} that this version "
            f"reads; build the index anew with this version"
        )
    return content
