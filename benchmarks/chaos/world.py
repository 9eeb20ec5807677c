"""Two small bundles over the same ids, users' state, and what each bundle answers when all is well.

The server's clock stands still, so a user has one answer from each bundle. An answer that is not
that of the bundle it names was mixed, or of a broken stage: then it has to say so.
"""

import shutil
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np

from pipelines.config import load_settings
from pipelines.run import STEPS, run_one
from recsys.settings import RecsysSettings
from serving.client import open_channel
from serving.v1 import recommender_pb2, recommender_pb2_grpc

CONFIG = Path(__file__).parents[2] / "pipelines" / "configs" / "synthetic.toml"
OVERRIDES = (
    "data.options.users=300",
    "data.options.items=300",
    "data.processes=1",
    "candidates.embedding_width=16",
    "candidates.tower=[32]",
    "candidates.training.max_epochs=1",
    "ranking.hidden=[32, 16]",
    "ranking.training.max_epochs=1",
    "serving.num_candidates=100",
)
SEEDS = (1, 2)
NUM_USERS = 50
PAGE_SIZE = 20
LEARNING_TRIES = 3
ROUNDING = 1e-5
"""Of expected seconds. Those of two bundles differ by a thousand times that."""
Content = list[tuple[str, float]]
"""Item and expected seconds, in order."""
MIXED = "not this bundle's answer, and nothing said of it"


@dataclass(frozen=True)
class World:
    """What is served.

    Args:
        runs: Directory of each run, the state's first.
        shelf: Directory of the bundles, `0` and `1`.
    """

    runs: tuple[Path, Path]
    shelf: Path

    @property
    def bundles(self) -> list[Path]:
        """Directories of the bundles."""
        return [self.shelf / str(number) for number in range(len(SEEDS))]

    @property
    def state(self) -> Path:
        """Users' state."""
        return self.runs[0] / "state"


def settings_of(seed: int) -> RecsysSettings:
    """Return the configuration of one of the runs."""
    return load_settings(CONFIG, [*OVERRIDES, f"seed={seed}"])


def make_world(place: Path) -> World:
    """Make what is not there yet."""
    world = World((place / "run_1", place / "run_2"), place / "shelf")
    for seed, run, target in zip(SEEDS, world.runs, world.bundles, strict=True):
        for step in STEPS:
            if step != "evaluation":
                run_one(step, settings_of(seed), run)
        if not target.exists():
            shutil.copytree(run / "bundle", target, ignore=shutil.ignore_patterns("step.json"))
    return world


class Answers:
    """The right answer of each bundle for each user, as the server itself gives it undisturbed.

    Args:
        address: Of a server.
        seen: Bundle and user -> items that they must not get, of those who are asked for.
    """

    def __init__(self, address: str, seen: Mapping[tuple[str, str], Set[str]]) -> None:
        self._address, self._seen = address, seen
        self._items: dict[tuple[str, str], Content] = {}

    def learn(self) -> None:
        """Ask for every user; the bundle that answers now must do so without a broken stage."""
        with open_channel(self._address, None) as channel:
            stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
            for user_id in sorted({user_id for _, user_id in self._seen}):
                for _ in range(LEARNING_TRIES):  # a busy machine may have a slow moment
                    answer = stub.RecommendItems(request_of(user_id), timeout=10)
                    if not answer.degraded_stages:
                        break
                if answer.degraded_stages or len(answer.items) != PAGE_SIZE:
                    raise SystemExit(f"expected a whole answer for {user_id}, got {answer}")
                self._items[answer.bundle_id, user_id] = content(answer)

    def problem(self, user_id: str, answer: recommender_pb2.RecommendItemsResponse) -> str:
        """Say what is wrong with an answer, empty if nothing is."""
        ids = [item.item_id for item in answer.items]
        if len(set(ids)) != PAGE_SIZE:
            return f"{len(set(ids))} items"
        if [item.position for item in answer.items] != list(range(PAGE_SIZE)):
            return "positions"
        right = self._items.get((answer.bundle_id, user_id))
        if right is None:
            return "unknown bundle"
        seen = self._seen[answer.bundle_id, user_id]
        if "state" not in answer.degraded_stages and not seen.isdisjoint(ids):
            return "seen items"
        if not answer.degraded_stages and not are_alike(content(answer), right):
            return MIXED
        return ""


def request_of(user_id: str) -> recommender_pb2.RecommendItemsRequest:
    """Return a request for one page, with an id of its own."""
    return recommender_pb2.RecommendItemsRequest(
        user_id=user_id, page_size=PAGE_SIZE, request_id=str(uuid4())
    )


def content(answer: recommender_pb2.RecommendItemsResponse) -> Content:
    """Return what an answer says of its items, to be compared."""
    return [
        (item.item_id, item.expected_watch_duration.ToNanoseconds() / 1e9) for item in answer.items
    ]


def are_alike(found: Content, right: Content) -> bool:
    """Say whether two answers are one, but for rounding: a batch is added up in another order."""
    seconds = np.array([[each[1] for each in content] for content in (found, right)])
    if not np.allclose(*seconds, rtol=ROUNDING, atol=0):
        return False
    is_tied = np.zeros(len(right), bool)
    is_tied[1:] = np.isclose(seconds[1, 1:], seconds[1, :-1], rtol=ROUNDING, atol=0)
    is_tied[:-1] |= is_tied[1:]
    return all(
        one[0] == other[0] or tied for one, other, tied in zip(found, right, is_tied, strict=True)
    )
