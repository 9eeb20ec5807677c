"""Item and user vectors for `benchmarks.ann`: our candidate net, trained on a world of interests.

Items lie in clusters, clusters in groups; a user has a few clusters, mostly of one group, and
watches items of these by a power law within each. So vectors crowd as those of a real catalogue do,
which decides how well an index can part them. Half of the users are never trained on: their vectors
are the queries, one part to choose settings by and one to measure with.

    python -m benchmarks.ann_vectors OUT [--items 1000000] [--steps 3000]
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from recsys.artefacts import save_arrays
from recsys.candidates.model import CandidateModel
from recsys.candidates.negatives import NegativeSampler
from recsys.candidates.sizes import CandidateSizes
from recsys.core.backends import compile_call, compile_step, to_numpy
from recsys.core.optimizers.by_name import new_optimizer
from recsys.core.random import stream
from recsys.progress import progress
from recsys.settings import CandidateSettings, TrainingSettings

WIDTH, HISTORY, BATCH_SIZE, NEGATIVES = 64, 30, 1024, 4096
CLUSTER_ITEMS, GROUP_CLUSTERS, USER_CLUSTERS = 100, 20, 4
OWN_GROUP = 0.7
"""Share of a user's clusters that are of their own group."""
NUM_QUERIES = 2000
LOOK_STEPS = 50


class World:
    """Who watches what.

    Args:
        num_items: N; clusters are of 100 items with neighbouring numbers.
    """

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.num_clusters = -(-num_items // CLUSTER_ITEMS)

    def watches(self, num_users: int, rng: np.random.Generator) -> np.ndarray:
        """Draw watches: int32 [num_users, HISTORY + 1], item rows."""
        groups = -(-self.num_clusters // GROUP_CLUSTERS)
        own = rng.integers(0, groups, (num_users, 1)) * GROUP_CLUSTERS
        near = own + rng.integers(0, GROUP_CLUSTERS, (num_users, USER_CLUSTERS))
        far = rng.integers(0, self.num_clusters, (num_users, USER_CLUSTERS))
        is_near = rng.random((num_users, USER_CLUSTERS)) < OWN_GROUP
        clusters = np.where(is_near, near, far) % self.num_clusters
        shape = (num_users, HISTORY + 1)
        chosen = np.take_along_axis(clusters, rng.integers(0, USER_CLUSTERS, shape), axis=1)
        place = (np.exp(rng.random(shape) * np.log(CLUSTER_ITEMS + 1)) - 1).astype(np.int64)
        return np.minimum(chosen * CLUSTER_ITEMS + place, self.num_items - 1).astype(np.int32)


def main() -> None:
    """Train, and write `items.npy` and `users.npy`."""
    arguments = _parse_arguments()
    world, net = World(arguments.items), _net(arguments.items)
    _train(net, world, arguments.steps)
    users = world.watches(2 * NUM_QUERIES, stream(1, "ann_queries"))
    call = compile_call(net, lambda batch: net.served_user_vectors(batch)[:, 0])
    vectors = np.concatenate(
        [call(_inputs(users[start : start + 500])) for start in range(0, len(users), 500)]
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_arrays(arguments.out, {"items": net.item_vectors(), "users": vectors})


def _net(num_items: int) -> CandidateModel:
    settings = CandidateSettings(
        windows=(HISTORY,),
        embedding_width=WIDTH,
        tower=(256,),
        loss="sampled_softmax",
        negatives={"uniform": NEGATIVES},
        training=TrainingSettings(
            learning_rate=1e-3, table_optimizer="row_adagrad", table_learning_rate=0.1
        ),
    )
    return CandidateModel(settings, CandidateSizes(num_items, 0, {}), seed=0)


def _train(net: CandidateModel, world: World, num_steps: int) -> None:
    optimizer = new_optimizer(net.settings.training, None)
    optimizer.build(net.trainable_variables)
    step = compile_step(net, net.softmax_loss, optimizer)
    with progress("vectors", num_steps) as task:
        for number, batch in enumerate(_batches(world, num_steps), start=1):
            loss = step(batch)[0]
            if number % LOOK_STEPS == 0:
                task.advance(LOOK_STEPS, loss=float(to_numpy(loss)))


def _batches(world: World, count: int) -> Iterator[dict[str, np.ndarray]]:
    rng = stream(0, "ann_batches")
    sampler = NegativeSampler({"uniform": NEGATIVES}, np.ones(world.num_items, np.int64))
    for _ in range(count):
        watches = world.watches(BATCH_SIZE, rng)
        negatives, log_expected_counts = sampler.sample(rng)
        yield _inputs(watches) | {
            "labels": watches[:, HISTORY:],
            "weight": np.ones((BATCH_SIZE, 1), np.float32),
            "negatives": negatives,
            "log_expected_counts": log_expected_counts,
        }


def _inputs(watches: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "history": watches[:, :HISTORY] + np.int32(1),
        "positions": np.full((len(watches), 1), HISTORY, np.int32),
    }


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=3000)
    return parser.parse_args()


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    main()
