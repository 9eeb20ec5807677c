"""Claim: ranking 300 candidates takes .80 of an unsplit net's time in float32, .36 in integers.

512 inputs, 300 of them of the user, through 1024, 512 and 256 units; one thread of ONNX Runtime.
The peer is the net as one would export it: user and candidate side by side, one first layer. Ours
computes the user's part of the first layer once a request, and its large products over candidates
in 8-bit integers (`recsys.core.onnx_quantize`). Same weights, sides taking turns; a time is the
median.

    python -m benchmarks.ranker_time [--candidates 300] [--json]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from keras import ops

from benchmarks.output import print_result
from recsys.core.backends import Batch, Tensor, to_numpy
from recsys.core.layers.tower import Tower
from recsys.core.onnx_export import Input, Output, export_onnx
from recsys.core.onnx_quantize import quantize_products
from recsys.core.onnx_session import load_session

USER_WIDTH, CANDIDATE_WIDTH, HIDDEN = 300, 212, (1024, 512, 256)
NUM_EXAMPLES, TURNS = 20, 60
OUTPUT = "score"


class Net:
    """The net in both forms; their weights are the same."""

    def __init__(self) -> None:
        self.first = Tower(HIDDEN[:1], 0.0, seed=1)
        self.first.build((None, USER_WIDTH + CANDIDATE_WIDTH))
        self.rest, self.out = Tower(HIDDEN[1:], 0.0, seed=2), Tower((1,), 0.0, seed=3)
        self.rest.build((None, HIDDEN[0]))
        self.out.build((None, HIDDEN[-1]))

    def whole(self, batch: Batch) -> Tensor:
        """Return the score of each candidate, the user's inputs repeated: [Q, C, 1]."""
        user = ops.repeat(batch["user"][:, None], ops.shape(batch["candidates"])[1], axis=1)
        joined = ops.concatenate([user, batch["candidates"]], axis=-1)
        return self.out(self.rest(self.first(joined)))

    def split(self, batch: Batch) -> Tensor:
        """Return the same, the user's part of the first layer computed once a request."""
        dense = self.first.steps[0].dense
        kernel = dense.kernel
        user = ops.matmul(batch["user"], kernel[:USER_WIDTH]) + dense.bias
        first = ops.relu(user[:, None] + ops.matmul(batch["candidates"], kernel[USER_WIDTH:]))
        return self.out(self.rest(first))


def main() -> None:
    """Export the three graphs, check that they agree, time them in turns."""
    started = time.monotonic()
    arguments = _parse_arguments()
    net, rng = Net(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        paths = {name: Path(directory) / f"{name}.onnx" for name in ("whole", "split", "int8")}
        for name in ("whole", "split"):
            _export(getattr(net, name), paths[name], rng)
        examples = [_feed(1, 64, rng) for _ in range(NUM_EXAMPLES)]
        longer = {**examples[0], "candidates": np.repeat(examples[0]["candidates"], 2, axis=1)}
        num_products = quantize_products(paths["split"], paths["int8"], examples, longer)
        sessions = {name: load_session(path, num_threads=1) for name, path in paths.items()}
    feed = _feed(1, arguments.candidates, rng)
    scores = {name: session.run([OUTPUT], feed)[0] for name, session in sessions.items()}
    alone = {**feed, "candidates": feed["candidates"][:, :1]}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(TURNS):
        for name, session in sessions.items():
            begun = time.perf_counter()
            session.run([OUTPUT], feed)
            seconds[name].append(time.perf_counter() - begun)
    milliseconds = {name: 1000 * float(np.median(taken)) for name, taken in seconds.items()}
    print_result(
        {
            "ranker_time_ratio_float32": milliseconds["split"] / milliseconds["whole"],
            "ranker_time_ratio_int8": milliseconds["int8"] / milliseconds["whole"],
        },
        as_json=arguments.json,
        started=started,
        milliseconds=milliseconds,
        num_products=num_products,
        largest_difference_float32=float(np.abs(scores["split"] - scores["whole"]).max()),
        correlation_int8=float(np.corrcoef(scores["int8"].ravel(), scores["whole"].ravel())[0, 1]),
        is_batch_independent=bool(
            sessions["int8"].run([OUTPUT], alone)[0][0, 0] == scores["int8"][0, 0]
        ),
        candidates=arguments.candidates,
    )


def _export(function: object, path: Path, rng: np.random.Generator) -> None:
    inputs = {
        "user": Input("float32", ("batch", USER_WIDTH)),
        "candidates": Input("float32", ("batch", "candidates", CANDIDATE_WIDTH)),
    }
    checks = [(feed, to_numpy(function(feed))) for feed in (_feed(2, 3, rng), _feed(1, 7, rng))]
    export_onnx(function, inputs, Output(OUTPUT, ("batch", "candidates", 1)), path, checks=checks)


def _feed(num_users: int, num_candidates: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    shape = (num_users, num_candidates, CANDIDATE_WIDTH)
    return {
        "user": rng.normal(size=(num_users, USER_WIDTH)).astype(np.float32),
        "candidates": rng.normal(size=shape).astype(np.float32),
    }


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
