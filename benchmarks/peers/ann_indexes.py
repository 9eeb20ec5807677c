"""The indexes that ours is compared with, each as its own documentation uses it, on one thread.

References:
    Malkov & Yashunin 2018, Efficient and robust approximate nearest neighbor search using
    Hierarchical Navigable Small World graphs (FAISS HNSW, hnswlib, usearch).
    Guo et al. 2020, Accelerating Large-Scale Inference with Anisotropic Vector Quantization
    (ScaNN).
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

LINKS, CONSTRUCTION = 32, 200
EF = (300, 350, 400, 500, 650, 800, 1000, 1300, 1700, 2200, 3000)
LEAVES = (10, 20, 30, 45, 65, 90, 130, 180, 250, 350, 500)
REORDER_FACTOR = 2
"""Of ScaNN: rows scored exactly, for one that is asked for."""


class Peer(Protocol):
    """An index whose search has one knob."""

    settings: tuple[int, ...]

    def set(self, setting: int) -> None:
        """Turn the knob."""

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """Return the rows found for one query: float32 [D] -> int64 [<= k]."""


class FaissHnsw:
    """FAISS `HNSW32,Flat` with the inner product."""

    settings = EF

    def __init__(self, vectors: np.ndarray, path: Path) -> None:
        import faiss

        self._faiss = faiss
        if not path.exists():
            index = faiss.index_factory(
                vectors.shape[1], f"HNSW{LINKS},Flat", faiss.METRIC_INNER_PRODUCT
            )
            index.hnsw.efConstruction = CONSTRUCTION
            index.add(np.ascontiguousarray(vectors))
            faiss.write_index(index, str(path))
        self._index = faiss.read_index(str(path))
        faiss.omp_set_num_threads(1)

    def set(self, setting: int) -> None:
        """Set efSearch."""
        self._parameters = self._faiss.SearchParametersHNSW(efSearch=setting)

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """Search."""
        return self._index.search(query[None], k, params=self._parameters)[1][0]


class Hnswlib:
    """hnswlib with the inner product."""

    settings = EF

    def __init__(self, vectors: np.ndarray, path: Path) -> None:
        import hnswlib

        self._index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        if not path.exists():
            self._index.init_index(len(vectors), M=LINKS // 2, ef_construction=CONSTRUCTION)
            self._index.add_items(vectors)
            self._index.save_index(str(path))
            self._index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self._index.load_index(str(path))
        self._index.set_num_threads(1)

    def set(self, setting: int) -> None:
        """Set ef."""
        self._index.set_ef(setting)

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """Search."""
        return self._index.knn_query(query[None], k)[0][0].astype(np.int64)


class Usearch:
    """usearch with the inner product, in float32."""

    settings = EF

    def __init__(self, vectors: np.ndarray, path: Path) -> None:
        from usearch.index import Index

        self._index = Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="f32",
            connectivity=LINKS // 2,
            expansion_add=CONSTRUCTION,
        )
        if path.exists():
            self._index.load(str(path))
        else:
            self._index.add(np.arange(len(vectors)), np.ascontiguousarray(vectors))
            self._index.save(str(path))

    def set(self, setting: int) -> None:
        """Set the expansion of a search."""
        self._index.expansion_search = setting

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """Search."""
        return np.asarray(self._index.search(query, k, threads=1).keys, np.int64)


class Scann:
    """ScaNN: a tree of leaves, anisotropic 4-bit codes, exact scores of the best."""

    settings = LEAVES

    def __init__(self, vectors: np.ndarray, path: Path) -> None:
        # ScaNN's TensorFlow ops are of another TensorFlow; without one it leaves them out.
        sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
        import scann

        self._leaves = LEAVES[0]
        path = path.resolve()  # its files name each other; relative names are taken twice
        if path.exists():
            self._searcher = scann.scann_ops_pybind.load_searcher(str(path))
            return
        builder = scann.scann_ops_pybind.builder(np.ascontiguousarray(vectors), 100, "dot_product")
        self._searcher = (
            builder.tree(
                num_leaves=int(2 * len(vectors) ** 0.5),
                num_leaves_to_search=LEAVES[0],
                training_sample_size=min(len(vectors), 250_000),
            )
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(600)
            .build()
        )
        path.mkdir(parents=True)
        self._searcher.serialize(str(path))

    def set(self, setting: int) -> None:
        """Set the leaves to search."""
        self._leaves = setting

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """Search."""
        rows, _ = self._searcher.search(
            query,
            final_num_neighbors=k,
            pre_reorder_num_neighbors=REORDER_FACTOR * k,
            leaves_to_search=self._leaves,
        )
        return rows.astype(np.int64)


PEERS: Mapping[str, Callable[[np.ndarray, Path], Any]] = {
    "faiss_hnsw32": FaissHnsw,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "scann": Scann,
}
