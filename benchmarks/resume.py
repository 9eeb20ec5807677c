"""Killed and taken up again, a training ends with the bytes of one that was left alone.

A small candidate net on the synthetic world is trained in a child process, unbroken. Then it is
trained again and again, each time killed (SIGKILL) at random moments between its first step and
its end, and started anew until it is through; a kill may hit a checkpoint being written, a
validation, or a training just taken up. `identical` says of each whether the sha256 over all
arrays of its last checkpoint (weights, optimizer, dropout's random state, best weights) and over
its curves is that of the unbroken one. `worst_lost_seconds` is the longest time that a child had
trained since its newest checkpoint, or since it began if it had none of its own yet.

    python -m benchmarks.resume [--kills 20] [--seed 0] [--json]
"""

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.output import print_result
from pipelines.config import load_settings
from pipelines.environment import set_up
from recsys.artefacts import UNFINISHED, canonical_json
from recsys.settings import RecsysSettings

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "synthetic.toml"
OVERRIDES = (
    "data.options.users=400",
    "data.options.items=200",
    "data.processes=1",
    "candidates.embedding_width=16",
    "candidates.tower=[32]",
    "candidates.training.batch_size=16",
    "candidates.training.max_epochs=8",
    "candidates.training.patience=8",
    "candidates.training.checkpoint_steps=5",
    "candidates.training.tensorboard=false",
)
CHECKPOINTS = f"{UNFINISHED}/checkpoint-*.npz"
READY = "training"


def main() -> None:
    """Train unbroken, train with kills, compare, print."""
    started = time.monotonic()
    arguments = _parse_arguments()
    set_up()
    settings = load_settings(CONFIG, list(OVERRIDES))
    if arguments.child is not None:
        _train(settings, *arguments.child)
        return
    with tempfile.TemporaryDirectory() as scratch:
        _prepare(settings, Path(scratch) / "prepared")
        figures = _kill_and_compare(Path(scratch), arguments.kills, arguments.seed)
    print_result(
        figures,
        as_json=arguments.json,
        started=started,
        overrides=OVERRIDES,
        seed=arguments.seed,
    )


def _prepare(settings: RecsysSettings, directory: Path) -> None:
    from pipelines import prepare

    directory.mkdir()
    prepare.main(settings, directory)


def _train(settings: RecsysSettings, prepared: Path, directory: Path) -> None:
    """Be the child: train, or go on; say when it begins, and in the end the hash of it all."""
    from pipelines.train_candidates import new_model, train_model
    from recsys.core.checkpoint import Checkpoints
    from recsys.data.prepared import load_prepared

    log = load_prepared(prepared)
    model = new_model(log, settings.candidates, seed=settings.seed)
    directory.mkdir(exist_ok=True)
    print(READY, flush=True)
    history = train_model(model, log, directory, seed=settings.seed)
    checkpoint = Checkpoints(directory / UNFINISHED, num_kept=2).load()
    digest = hashlib.sha256()
    for name, arrays in checkpoint.groups.items() if checkpoint else ():
        for array in arrays:
            digest.update(canonical_json([name, str(array.dtype), array.shape]) + array.tobytes())
    curves = [[epoch.figures, epoch.metrics] for epoch in history.epochs]
    digest.update(canonical_json([curves, history.best_epoch, history.stop]))
    print(digest.hexdigest(), flush=True)


@dataclass
class _Killer:
    """Kills until it has killed enough.

    Args:
        prepared: What children train on.
        rng: Where the moments come from.
        num_saved: Checkpoints of an unbroken training.
        seconds_between: Two of them.
        kills_left: How many more.
        lost_seconds: From the newest checkpoint to the kill, of each.
    """

    prepared: Path
    rng: np.random.Generator
    num_saved: int
    seconds_between: float
    kills_left: int
    lost_seconds: list[float]

    def train(self, directory: Path) -> str:
        """Train in children, one after the other, until one is through; return its hash."""
        while True:
            with _child(self.prepared, directory) as child:
                ready_at = _wait_until_ready(child)
                if self.kills_left:
                    self._wait(child, directory)
                    child.kill()
                    if child.wait() == -signal.SIGKILL:
                        self._count(directory, ready_at)
                        continue
                return _digest(child)

    def _wait(self, child: subprocess.Popen[str], directory: Path) -> None:
        """Wait for a random point of what is left; one in a while lies behind the end.

        Points are spread over checkpoints, not seconds: most seconds pass before the first step.
        """
        point = self.rng.uniform(_newest_number(directory), 1.2 * self.num_saved)
        while child.poll() is None and _newest_number(directory) < int(point):
            time.sleep(0.005)
        time.sleep(point % 1 * self.seconds_between)

    def _count(self, directory: Path, ready_at: float) -> None:
        now = time.time()
        saved = [path.stat().st_mtime for path in directory.glob(CHECKPOINTS)]
        self.lost_seconds.append(now - max([ready_at, *saved]))
        self.kills_left -= 1


def _kill_and_compare(scratch: Path, num_kills: int, seed: int) -> dict[str, object]:
    prepared, unbroken = scratch / "prepared", scratch / "unbroken"
    with _child(prepared, unbroken) as child:
        ready_at = _wait_until_ready(child)
        expected = _digest(child)
    seconds, num_saved = time.time() - ready_at, _newest_number(unbroken)
    rng = np.random.default_rng(seed)
    killer = _Killer(prepared, rng, num_saved, seconds / num_saved, num_kills, [])
    found = []
    while killer.kills_left:
        found.append(killer.train(scratch / f"killed{len(found)}"))
        done = num_kills - killer.kills_left
        print(f"training {len(found)}: {found[-1] == expected}, {done} kills", file=sys.stderr)
    return {
        "kills": num_kills,
        "trainings": len(found),
        "identical": all(digest == expected for digest in found),
        "worst_lost_seconds": round(max(killer.lost_seconds, default=0.0), 3),
        "median_lost_seconds": round(float(np.median(killer.lost_seconds)), 3),
        "unbroken_seconds": round(seconds, 3),
        "sha256": expected,
    }


def _newest_number(directory: Path) -> int:
    names = (path.stem for path in directory.glob(CHECKPOINTS))
    return max((int(name.partition("-")[2]) for name in names), default=0)


def _child(prepared: Path, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.resume", "--child", str(prepared), str(directory)]
    with directory.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)


def _wait_until_ready(child: subprocess.Popen[str]) -> float:
    if child.stdout is None or child.stdout.readline().strip() != READY:
        raise SystemExit("a child ended before it trained; run it alone with --child to see why")
    return time.time()


def _digest(child: subprocess.Popen[str]) -> str:
    output, _ = child.communicate()
    if child.returncode != 0:
        raise SystemExit(
            f"a child ended with status {child.returncode}, expected 0; run it alone with --child "
            f"to see why"
        )
    return output.strip()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="at least 1")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
