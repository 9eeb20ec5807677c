"""FAISS indexes. FAISS finds candidates; their scores and order are then computed exactly.

Compressed kinds (`ivf_sq8`, `ivf_pq`, `lsh`) fetch `rescore_factor` times as many as asked for.
Vectors are trained on by a sample and added in parts, so mapped ones stay on disk.
Inner product throughout: the inverted files take FAISS's inner-product metric, whose quantiser
is spherical, since one trained by distance loses most of the recall when norms differ. LSH sees
angles only, so one more dimension levels the norms first.

References:
    Johnson, Douze, Jegou, Billion-scale similarity search with GPUs, 2017.
    Neyshabur, Srebro, On symmetric and asymmetric LSHs for inner product search, ICML 2015.
"""

import contextlib
import math
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import ArtefactError, ConfigError
from recsys.index.exact import check_queries, empty_answer, fill_best, row_chunks
from recsys.index.files import Description, write_files
from recsys.settings import IndexSettings

FAISS_FILE = "index.faiss"
INVERTED_KINDS = ("ivf", "ivf_sq8", "ivf_pq")
COMPRESSED_KINDS = ("ivf_sq8", "ivf_pq", "lsh")
TRAINED_MINIMUM = 256
"""Vectors below which a quantiser cannot be trained: a product code has 256 centroids."""
TRAINING_POINTS_PER_LIST = 39
"""FAISS's own minimum for k-means."""
TRAINING_MAXIMUM = 200_000
"""Vectors that a quantiser is trained on, unless its lists need more."""
DEFAULT_RESCORE_FACTOR = 4.0
ROW_NUMBER_BYTES = 8
SIMD_WIDTH = 16
"""FAISS decodes 8-bit codes of other widths one by one, in more than twice the time."""
EDGE = 32
"""Fetched beyond k, so that ties at the end of the list are settled by row, not by FAISS."""
QUERY_CHUNK = 16
"""FAISS multiplies 20 queries and more by BLAS, whose last bits depend on how many there are."""
SERVED_QUERIES = 64
"""So many are those of calls that are answered together, and one of several such searches: each is
searched in its own thread. More are a batch of its own, and take all cores."""
GPU_MAX_FETCH = 2048
HNSW_CONSTRUCTION = 200


class ApproximateIndex:
    """Item vectors in a FAISS index, re-scored exactly.

    Args:
        vectors: float32 [N, D]; row r is catalogue row r.
        searcher: The FAISS index over them, of D dimensions or more (the rest are zero in queries).
        settings: `kind` is a FAISS kind; `num_probes` is set for inverted files.
        recall: Share of the true `recall_k` best that it was measured to find.
    """

    def __init__(
        self, vectors: np.ndarray, searcher: Any, settings: IndexSettings, recall: float | None
    ) -> None:
        self.vectors = vectors
        self.settings = settings
        self.recall = recall
        self._stored = searcher
        self._searcher = _on_gpu(searcher, settings)
        self._is_on_gpu = self._searcher is not searcher
        self._gpu_lock = threading.Lock()

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return self.settings.kind

    @property
    def rescore_factor(self) -> float:
        """Vectors scored exactly, for one that is asked for."""
        if self.kind not in COMPRESSED_KINDS:
            return 1.0
        return self.settings.rescore_factor or DEFAULT_RESCORE_FACTOR

    def __len__(self) -> int:
        """Return the number of indexed vectors."""
        return len(self.vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best rows of each query: see `recsys.index.base.Index.search`."""
        check_queries(queries, k, self.vectors.shape[1])
        scores, rows = empty_answer(len(queries), k)
        if len(self) == 0:
            return scores, rows
        num_threads = 1 if len(queries) <= SERVED_QUERIES else None
        for start in range(0, len(queries), QUERY_CHUNK):
            chunk = queries[start : start + QUERY_CHUNK]
            for q, found in enumerate(self._fetch(chunk, k, num_threads), start):
                found = np.sort(found[found >= 0])
                fill_best(scores[q], rows[q], self.vectors, queries[q], found)
        return scores, rows

    def with_settings(self, *, recall: float | None = None, **changes: Any) -> "ApproximateIndex":
        """Return the same index with other search settings (`num_probes`, `ef_search`, ...)."""
        settings = self.settings.model_copy(update=changes)
        return ApproximateIndex(self.vectors, self._stored, settings, recall)

    def save(self, directory: Path) -> None:
        """Write the index into a directory."""
        write_files(directory, self.vectors, Description(self.settings, self.recall))
        if self.kind != "flat":
            _import_faiss().write_index(self._stored, str(directory / FAISS_FILE))

    @classmethod
    def load(
        cls, directory: Path, vectors: np.ndarray, description: Description
    ) -> "ApproximateIndex":
        """Map the FAISS index beside the files of `recsys.index.files`.

        Raises:
            ArtefactError: The FAISS file is missing, broken, or of other vectors.
            ConfigError: FAISS is not installed.
        """
        settings, recall = description.settings, description.recall
        if settings.kind == "flat":
            return cls(vectors, _flat(vectors), settings, recall)
        searcher = _read_faiss(directory / FAISS_FILE)
        if searcher.ntotal != len(vectors) or searcher.d < vectors.shape[1]:
            raise ArtefactError(
                f"{directory}: expected a FAISS index of {len(vectors)} vectors of width "
                f"{vectors.shape[1]}, found {searcher.ntotal} of {searcher.d}; build the index anew"
            )
        return cls(vectors, searcher, settings, recall)

    def _fetch(self, queries: np.ndarray, k: int, num_threads: int | None) -> np.ndarray:
        """Return candidate rows int64 [b, fetch], -1 where there are none."""
        fetch = min(len(self), max(math.ceil(k * self.rescore_factor), k + EDGE))
        padded = np.zeros((len(queries), self._stored.d), np.float32)
        padded[:, : queries.shape[1]] = queries
        parameters = _search_parameters(self.settings, fetch)
        if self._is_on_gpu and k + EDGE <= GPU_MAX_FETCH:
            try:
                with self._gpu_lock:  # FAISS's GPU resources serve one caller at a time.
                    return self._searcher.search(
                        padded, min(fetch, GPU_MAX_FETCH), params=parameters
                    )[1]
            except RuntimeError:  # the GPU is gone, or out of memory: from now on without it
                self._is_on_gpu = False
        with _threads(num_threads):
            return self._stored.search(padded, fetch, params=parameters)[1]


def is_faiss_installed() -> bool:
    """Return whether FAISS can be imported."""
    return find_spec("faiss") is not None


def build_approximate(vectors: np.ndarray, settings: IndexSettings) -> ApproximateIndex:
    """Train and fill a FAISS index; inverted files get their number of probes later.

    Args:
        vectors: float32 [N, D].
        settings: `kind` is a FAISS kind.

    Raises:
        ConfigError: FAISS is not installed, or the kind cannot be trained on so few vectors.
    """
    faiss = _import_faiss()
    if settings.kind in INVERTED_KINDS:
        settings = _with_lists(settings, len(vectors))
    largest_square = max((_squares(vectors[rows]).max() for rows in row_chunks(vectors)), default=0)
    sample = _prepare(_training_sample(vectors, settings), settings, largest_square)
    if settings.kind == "lsh":
        searcher = faiss.IndexLSH(sample.shape[1], settings.lsh_bits, True)
    else:
        recipe = _recipe(settings)
        searcher = faiss.index_factory(sample.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
    if settings.kind == "hnsw":
        searcher.hnsw.efConstruction = HNSW_CONSTRUCTION
    searcher.train(sample)
    for rows in row_chunks(vectors):
        searcher.add(_prepare(vectors[rows], settings, largest_square))
    return ApproximateIndex(vectors, searcher, settings, None)


def code_bytes(index: ApproximateIndex) -> int:
    """Return what an inverted index stores of one vector, its row number included."""
    settings, width = index.settings, index.vectors.shape[1]
    padded = width + -width % SIMD_WIDTH
    codes = {"ivf": 4 * width, "ivf_sq8": padded, "ivf_pq": settings.pq_bytes}
    return codes[settings.kind] + ROW_NUMBER_BYTES


def level_norms(vectors: np.ndarray, largest_square: float) -> np.ndarray:
    """Append sqrt(max |v|^2 - |v|^2), so that order by angle is order by inner product.

    Queries get 0 in the new dimension: no inner product changes, and all norms are now equal.

    Args:
        vectors: float32 [N, D], some of all.
        largest_square: max |v|^2 over all.

    Returns:
        float32 [N, D + 1].
    """
    missing = np.sqrt(np.maximum(largest_square - _squares(vectors), 0))
    return np.column_stack([vectors, missing]).astype(np.float32)


def _squares(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", vectors, vectors)


def _training_sample(vectors: np.ndarray, settings: IndexSettings) -> np.ndarray:
    """Return vectors evenly from all, as many as the quantiser gains from."""
    wanted = max(TRAINING_MAXIMUM, TRAINING_POINTS_PER_LIST * (settings.num_lists or 1))
    if len(vectors) <= wanted:
        return vectors
    return vectors[np.linspace(0, len(vectors) - 1, wanted).astype(np.int64)]


def _recipe(settings: IndexSettings) -> str:
    """Return the FAISS factory string of a kind."""
    lists = f"IVF{settings.num_lists}"
    return {
        "flat": "Flat",
        "hnsw": f"HNSW{settings.hnsw_links},Flat",
        "ivf": f"{lists},Flat",
        "ivf_sq8": f"{lists},SQ8",
        # np: without polysemous codes, which take a minute to train and are not used here.
        "ivf_pq": f"{lists},PQ{settings.pq_bytes}x8np",
    }[settings.kind]


def _prepare(vectors: np.ndarray, settings: IndexSettings, largest_square: float) -> np.ndarray:
    """Return the vectors as FAISS shall hold them: levelled, or padded with zeros."""
    if settings.kind == "lsh":
        return level_norms(vectors, largest_square)
    multiple = {"ivf_pq": settings.pq_bytes, "ivf_sq8": SIMD_WIDTH}.get(settings.kind, 1)
    padding = -vectors.shape[1] % multiple
    return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, padding))), np.float32)


def _with_lists(settings: IndexSettings, num_vectors: int) -> IndexSettings:
    """Choose the number of lists: about four times the root, as far as they can be trained."""
    if num_vectors < max(TRAINED_MINIMUM, settings.num_lists or 0):
        raise ConfigError(
            f"index.kind = {settings.kind!r} needs at least {TRAINED_MINIMUM} items and one for "
            f"each of num_lists = {settings.num_lists}, the catalogue has {num_vectors} trained "
            f"ones; take fewer lists, or index.kind = 'exact', which suits small catalogues"
        )
    trainable = num_vectors // TRAINING_POINTS_PER_LIST
    default = min(trainable, int(4 * num_vectors**0.5))
    return settings.model_copy(update={"num_lists": settings.num_lists or default})


def _search_parameters(settings: IndexSettings, fetch: int) -> Any:
    """Return FAISS's parameters of one search: they are its own, so threads do not meet."""
    faiss = _import_faiss()
    if settings.kind in INVERTED_KINDS:
        return faiss.SearchParametersIVF(nprobe=settings.num_probes)
    if settings.kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=max(settings.ef_search, fetch))
    return None


def _flat(vectors: np.ndarray) -> Any:
    searcher = _import_faiss().IndexFlatIP(vectors.shape[1])
    searcher.add(np.ascontiguousarray(vectors))
    return searcher


def _on_gpu(searcher: Any, settings: IndexSettings) -> Any:
    """Return a copy on the first GPU if there is one that holds this kind, else the index."""
    faiss = _import_faiss()
    if not settings.use_gpu or settings.kind in {"hnsw", "lsh"} or faiss.get_num_gpus() == 0:
        return searcher
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, searcher)
    except RuntimeError:  # FAISS: this code size or width has no GPU kernel.
        return searcher


def _read_faiss(path: Path) -> Any:
    faiss = _import_faiss()
    if not path.is_file():
        raise ArtefactError(f"{path}: expected a FAISS index, found none; build the index anew")
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:  # Not every kind can be mapped.
        try:
            return faiss.read_index(str(path))
        except RuntimeError as error:
            raise ArtefactError(f"{path}: FAISS cannot read it ({error}); build anew") from None


@contextlib.contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Limit FAISS's threads, where a number is given, for calls from this thread."""
    if number is None:
        yield
        return
    faiss = _import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _import_faiss() -> Any:
    """Import FAISS where it is first needed: the base install goes without."""
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "this kind of index needs FAISS, which is not installed; `pip install recsys[cpu]` "
            "(or recsys[gpu]), or build the index with index.kind = 'exact'"
        ) from None
    return faiss
