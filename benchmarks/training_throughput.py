"""Training steps of the candidate net, batches to weights, beside the same net in stock Keras 3.

Protocol: 1M items x 64, history 50, batch 1024, 4,096 sampled negatives, ids of one power law. Ours
is `CandidateModel` with row-wise Adagrad on its tables through `compile_step`; the peer has Keras's
`Embedding` and `Adam` under `fit`. Each side runs in a process of its own; the two take turns, a
block of steps each, and a speed-up is the median over the turns. The optimizer step alone is that
of a table of 1M x 256 with gradients for 1024 x 50 ids.

    python -m benchmarks.training_throughput --json [--plot docs/training_throughput.svg]
    python -m benchmarks.training_throughput --json --backend jax    # ours alone; needs a GPU
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.output import print_result
from benchmarks.throughput_nets import BATCH_SIZE
from recsys.evaluation.plots import OURS, TRUE, side_by_side

ITEMS = 1_000_000
GROWTH = (10_000, 100_000, ITEMS, 4_000_000)
TURNS, STEPS = 5, 4
DEVICE = "import jax; print(jax.default_backend())"


class Worker:
    """A child process that takes blocks of training steps when told.

    Args:
        side: A name in `benchmarks.throughput_worker.SIDES`.
        num_items: Rows of the tables.
        backend: Of Keras.
    """

    def __init__(self, side: str, num_items: int, backend: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.throughput_worker", side, str(num_items)],
            env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.peak_bytes = 0

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def seconds_per_step(self, steps: int) -> float:
        """Take steps; return what one took."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.peak_bytes = answer["peak_bytes"]
        return answer["seconds"] / steps


def main() -> None:
    """Measure, print, plot."""
    started = time.monotonic()
    arguments = _parse_arguments()
    if arguments.backend == "jax" and (reason := _why_not_jax()):
        print_result({"skipped": reason}, as_json=arguments.json, started=started)
        return
    sides = ["ours"] if arguments.backend == "jax" else ["ours", "stock"]
    growth = {
        items: _measure(sides if items <= ITEMS else sides[:1], items, arguments.backend)
        for items in GROWTH
    }
    figures = _figures(growth)
    if arguments.backend == "tensorflow":
        figures |= _optimizer_figures()
    if arguments.plot:
        arguments.plot.write_text(side_by_side([_draw_growth(growth)], height=3.4))
    print_result(
        figures,
        as_json=arguments.json,
        started=started,
        backend=arguments.backend,
        protocol="1M x 64, history 50, batch 1024, 4096 negatives; optimizer step 1M x 256",
        turns=TURNS,
        steps_a_turn=STEPS,
    )


def _measure(sides: Sequence[str], items: int, backend: str) -> dict[str, dict[str, Any]]:
    """Let sides take turns; return the seconds a step of each turn, and the peak memory."""
    with ExitStack() as stack:
        workers = {
            side: stack.enter_context(closing(Worker(side, items, backend))) for side in sides
        }
        for worker in workers.values():
            worker.seconds_per_step(STEPS)  # compiles, touches memory
        turns = [
            {side: worker.seconds_per_step(STEPS) for side, worker in workers.items()}
            for _ in range(TURNS)
        ]
        return {
            side: {"seconds": [turn[side] for turn in turns], "peak_bytes": worker.peak_bytes}
            for side, worker in workers.items()
        }


def _speedup(measured: Mapping[str, Mapping[str, Any]], ours: str, stock: str) -> float:
    pairs = zip(measured[stock]["seconds"], measured[ours]["seconds"], strict=True)
    return float(np.median([theirs / mine for theirs, mine in pairs]))


def _figures(growth: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    whole = growth[ITEMS]
    prefix = {"ours": "", "stock": "stock_"}
    figures: dict[str, Any] = {}
    for side, measured in whole.items():
        seconds = float(np.median(measured["seconds"]))
        figures[f"{prefix[side]}examples_per_second"] = BATCH_SIZE / seconds
        figures[f"{prefix[side]}peak_bytes"] = measured["peak_bytes"]
    if "stock" in whole:
        figures["speedup_end_to_end"] = _speedup(whole, "ours", "stock")
    for items, sides in growth.items():
        for side in sides:
            name = f"{prefix[side]}microseconds_per_example_{items}"
            figures[name] = _microseconds(sides[side])
    return figures


def _optimizer_figures() -> dict[str, float]:
    ours, stock = "optimizer_ours", "optimizer_stock"
    measured = _measure([ours, stock], ITEMS, "tensorflow")
    return {
        "speedup_optimizer_step": _speedup(measured, ours, stock),
        "optimizer_step_ms": 1e3 * float(np.median(measured[ours]["seconds"])),
        "stock_optimizer_step_ms": 1e3 * float(np.median(measured[stock]["seconds"])),
    }


def _microseconds(measured: Mapping[str, Any]) -> float:
    return 1e6 * float(np.median(measured["seconds"])) / BATCH_SIZE


def _draw_growth(growth: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> Any:
    def draw(axes: Axes) -> None:
        for side, colour, label in (
            ("ours", OURS, "row-wise Adagrad on the tables"),
            ("stock", TRUE, "stock Keras: Embedding, Adam, fit"),
        ):
            measured = {items: sides[side] for items, sides in growth.items() if side in sides}
            costs = [_microseconds(each) for each in measured.values()]
            axes.plot(list(measured), costs, color=colour, marker="o", label=label)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title("What an example costs as items grow")
        axes.set_xlabel("items, embedded in 64 dimensions")
        axes.set_ylabel("microseconds an example")
        axes.legend()

    return draw


def _why_not_jax() -> str:
    done = subprocess.run([sys.executable, "-c", DEVICE], capture_output=True, text=True)
    if done.returncode:
        return "jax is not installed: extra `jax`"
    device = done.stdout.strip()
    return "" if device == "gpu" else f"jax sees no GPU, only {device}"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "jax"], default="tensorflow")
    parser.add_argument("--plot", type=Path, help="SVG of the cost an example as items grow")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
