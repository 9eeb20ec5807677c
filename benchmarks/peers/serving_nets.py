"""The servers that ours is compared with: nets of the same shape in Keras, as one would serve them.

    tutorial   `model.predict` for both nets, all items scored by one product, the 300 best of them
    plain      both nets as a `tf.function`, FAISS HNSW32, no more than 300 candidates either

All that is no net and no index is our server's, whose own nets and index are replaced: state,
features, gRPC. So a peer is at no disadvantage by what is not compared. Candidates are rows of one
batch, the user's inputs repeated beside each, as the net was trained.

    python -m benchmarks.peers.serving_nets NAME --bundle DIR --store DIR --nets DIR
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf

from benchmarks.peers.ann_indexes import FaissHnsw
from pipelines import train_candidates, train_ranking
from pipelines.paths import RunPaths
from recsys.bundle import Bundle
from recsys.candidates.model import CandidateModel, CandidateSizes
from recsys.candidates.vectors import tower
from recsys.core.backends import to_numpy
from recsys.data.prepared import load_prepared
from recsys.index.exact import ExactIndex
from recsys.index.recall import Truth
from recsys.ranking.export import is_of_user
from recsys.ranking.items import ItemFeatures
from recsys.ranking.model import RankingModel, Scales
from recsys.ranking.ranker import Ranker
from recsys.ranking.spec import duration_seconds
from recsys.ranking.tables import table_sizes
from recsys.recommender import Recommender
from recsys.settings import RecsysSettings
from serving.server import ServerOptions, serve

Features = Mapping[str, np.ndarray]
Call = Callable[[Features], np.ndarray]
RECALL = 0.95
"""Of the HNSW graph, as in `benchmarks.ann`."""
NUM_TUNED = 200
NUM_CANDIDATES = 300
GRAPH_FILE, TUNED = "hnsw.faiss", "tuned.json"


def save_nets(settings: RecsysSettings, run: Path, out: Path) -> None:
    """Write the weights of both nets of a run, and the graph of its item vectors.

    Args:
        settings: Of the run.
        run: Its directory; the ranking net is trained anew, for as long: a clock ended the first.
        out: Directory to write.
    """
    paths, log = RunPaths(run), load_prepared(run / "prepared")
    out.mkdir(parents=True, exist_ok=True)
    items = ItemFeatures.build(log.catalogue, log.vocabularies, settings.ranking)
    spec = train_ranking.spec_of(log, items, settings.ranking)
    with train_ranking.mapped_rows(log, items, spec, out / "rows") as rows:
        ranker, _ = train_ranking.train_model(
            rows, spec, settings.ranking, paths.ranking, seed=settings.seed
        )
    _save(ranker, out / "ranker.npz")
    np.savez(out / "scales.npz", **vars(ranker.scales))
    (out / "tower.npz").write_bytes((paths.candidates / train_candidates.WEIGHTS).read_bytes())
    vectors = np.load(paths.candidates / "item_vectors.npy")
    truth = Truth.scan(ExactIndex(vectors), _user_vectors(paths.candidates), NUM_CANDIDATES)
    ef = tuned(FaissHnsw(vectors, out / GRAPH_FILE), truth)
    (out / TUNED).write_text(json.dumps({"ef_search": ef}))


class KerasTower:
    """The user tower; takes the place of `recsys.candidates.user_tower.UserTower`."""

    def __init__(self, call: Call, input_names: tuple[str, ...]) -> None:
        self._call, self.input_names = call, input_names

    def vectors(self, inputs: Features) -> np.ndarray:
        """Compute user vectors: float32 [B, 1, D]."""
        return self._call({name: inputs[name] for name in self.input_names})


class KerasRanker:
    """The ranking net; takes the place of `recsys.ranking.ranker.Ranker`."""

    def __init__(self, call: Call, ours: Ranker) -> None:
        self._call, self.spec, self.heads = call, ours.spec, ours.heads
        self.calibration, self._input_names = ours.calibration, ours.input_names

    def score(self, features: Features) -> dict[str, np.ndarray]:
        """Score Q requests of C candidates each, as Q x C rows."""
        shape = features["candidate_item"].shape[:2]
        rows = {
            name: _as_rows(name, values, shape)
            for name, values in features.items()
            if name in self._input_names
        }
        raw = self._call(rows)[:, 0].reshape(*shape, -1)
        values = self.heads.values(raw, duration_seconds(features, self.spec))
        values["expected_seconds"] *= self.calibration.factors_of(features)
        return values


class BruteForce:
    """All items scored by one product; takes the place of an index."""

    kind = "brute_force"

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = np.array(vectors)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best rows of each query."""
        scores = queries @ self._vectors.T
        rows = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, rows, axis=1), axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        return np.take_along_axis(scores, rows, axis=1), rows


class Graph:
    """FAISS HNSW32; takes the place of an index."""

    kind = "hnsw32"

    def __init__(self, vectors: np.ndarray, path: Path, ef_search: int) -> None:
        self._vectors, self._graph = np.array(vectors), FaissHnsw(vectors, path)
        self._graph.set(ef_search)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best rows of each query."""
        rows = np.stack([self._graph.search(query, k) for query in queries])
        return np.einsum("qd,qkd->qk", queries, self._vectors[rows]), rows


def load_peer(name: str, directory: Path, nets: Path) -> Recommender:
    """Return a recommender of a bundle whose nets and index are a peer's."""
    bundle = Bundle.load(directory)
    compiled = _predict if name == "tutorial" else _function
    index: Any = BruteForce(bundle.item_vectors)
    if name == "plain":
        ef_search = json.loads((nets / TUNED).read_text())["ef_search"]
        index = Graph(bundle.item_vectors, nets / GRAPH_FILE, ef_search)
    candidate_net, ranking_net = _candidate_net(bundle, nets), _ranking_net(bundle, nets)
    tower_call = compiled(candidate_net, tower(candidate_net))
    return Recommender(
        replace(
            bundle,
            user_tower=KerasTower(tower_call, bundle.user_tower.input_names),
            index=index,
            ranker=KerasRanker(compiled(ranking_net, ranking_net.__call__), bundle.ranker),
        )
    )


def main() -> None:
    """Serve a bundle by a peer until SIGTERM."""
    arguments = _parse_arguments()
    serve(
        arguments.bundle,
        arguments.store,
        ServerOptions(port=arguments.port, metrics_port=arguments.metrics_port),
        load=lambda directory: load_peer(arguments.name, directory, arguments.nets),
    )


def tuned(graph: FaissHnsw, truth: Truth) -> int:
    """Return the smallest efSearch of its list that reaches the recall, the last if none does."""
    for setting in graph.settings:
        graph.set(setting)
        found = np.stack([graph.search(query, truth.rows.shape[1]) for query in truth.queries])
        pairs = zip(found, truth.rows, strict=True)
        if sum(len(np.intersect1d(*pair)) for pair in pairs) / truth.rows.size >= RECALL:
            break
    return setting


class _Served(keras.Model):  # type: ignore[misc]
    """A function of a net, for `predict`."""

    def __init__(self, net: keras.Model, function: Callable[[Any], Any]) -> None:
        super().__init__(name="served")  # Keras takes no name that begins as this class's does
        self._net, self._function = net, function

    def call(self, batch: Any) -> Any:
        return self._function(batch)


def _predict(net: keras.Model, function: Callable[[Any], Any]) -> Call:
    served = _Served(net, function)
    return lambda inputs: served.predict(dict(inputs), batch_size=512, verbose=0)


def _function(net: keras.Model, function: Callable[[Any], Any]) -> Call:
    compiled = tf.function(function, reduce_retracing=True)
    return lambda inputs: compiled(
        {name: tf.constant(values) for name, values in inputs.items()}
    ).numpy()


def _candidate_net(bundle: Bundle, nets: Path) -> CandidateModel:
    sizes = CandidateSizes(bundle.catalogue.num_trained, 0, {})
    return _load(CandidateModel(bundle.settings.candidates, sizes, seed=0), nets / "tower.npz")


def _ranking_net(bundle: Bundle, nets: Path) -> RankingModel:
    settings, ours = bundle.settings.ranking, bundle.ranker
    if ours is None:
        raise SystemExit(f"{bundle.bundle_id}: expected a bundle with a ranking net")
    sizes = table_sizes(
        ours.spec,
        scale=settings.embedding_scale,
        max_width=settings.max_embedding_width,
        has_item_ids=settings.item_ids,
    )
    with np.load(nets / "scales.npz") as scales:
        net = RankingModel(settings, ours.spec, Scales(**scales), ours.heads, sizes, seed=0)
    return _load(net, nets / "ranker.npz")


def _save(net: keras.Model, path: Path) -> None:
    values = {str(number): to_numpy(each.value) for number, each in enumerate(net.variables)}
    np.savez(path, **values)  # type: ignore[arg-type]


def _load(net: keras.Model, path: Path) -> Any:
    with np.load(path) as values:
        for variable, name in zip(net.variables, values.files, strict=True):
            variable.assign(values[name])
    return net


def _as_rows(name: str, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Turn [Q, C, ...] or, of the user, [Q, ...] into rows [Q x C, 1, ...] or [Q x C, ...]."""
    if is_of_user(name):
        return np.repeat(values, shape[1], axis=0)
    return values.reshape(shape[0] * shape[1], 1, *values.shape[2:])


def _user_vectors(candidates: Path) -> np.ndarray:
    column = pq.read_table(candidates / "user_vectors.parquet", columns=["vector"])["vector"]
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = values.astype(np.float32).reshape(len(column), -1)
    return vectors[np.linspace(0, len(vectors) - 1, NUM_TUNED).astype(int)]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=["tutorial", "plain"])
    for name in ("bundle", "store", "nets"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("port", "metrics-port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
