"""Claim: candidates trained by policy gradient raise the true watch time over plain softmax.

Ten items: of a logger that shows most what pays least, cross-entropy learns to do likewise, the
corrected gradient finds the best item, and with K = 2 the policy spreads over the best two
(`ten_item_world_solved`).

The synthetic world: nets of one configuration (`pipelines/configs/research/policy_gradient.toml`)
are trained on one log with propensities and then simulated (`recsys simulate`), each against that
of plain softmax, every user living in both. `policy_gradient_gain` is the true change of watch
seconds a user and day, as a share; its interval is that of a geometric mean over seeds, each a
world of its own (Student's t). Beside it stand what the reward alone gives (a cap so low that all
actions weigh alike), K = 1, and a policy gradient that has to estimate the logging policy.

    python -m benchmarks.policy_gradient [--seeds 0 1 2] [--days 5] [--out DIR] [--json]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.output import print_result
from pipelines import run, simulate
from pipelines.config import load_settings
from pipelines.environment import set_up
from recsys.core.backends import to_numpy
from recsys.core.policy_gradient import off_policy_weight, top_k_multiplier
from recsys.settings import SimulationSettings

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "research" / "policy_gradient.toml"
STEPS = ("prepared", "candidates", "index", "bundle", "state")
PLAIN = "softmax"
SEEDS = range(8)
"""Of worlds."""
DAYS = 5
SECTION = "candidates.policy_gradient"
ARMS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "reward_alone": (f"{SECTION}.weight_cap=1e-6", f"{SECTION}.top_k=1"),
    "top_1": (f"{SECTION}.top_k=1",),
    "top_k": (),
    "top_k_estimated": (f"{SECTION}.logged_propensities=false",),
}


def main() -> None:
    """Measure and print."""
    started, arguments = time.monotonic(), _parse_arguments()
    set_up()
    with tempfile.TemporaryDirectory() as scratch:
        found = gains(arguments.seeds, arguments.days, arguments.out or Path(scratch))
    lifts = found.pop("lifts")
    print_result(
        {"ten_item_world_solved": ten_item_world_solved(), **found},
        as_json=arguments.json,
        started=started,
        seeds=arguments.seeds,
        days=arguments.days,
        lifts=lifts,
    )


def gains(seeds: Sequence[int], days: int, out: Path) -> dict[str, Any]:
    """Return the gain of each arm over the worlds of some seeds; worlds that are there are kept.

    Args:
        seeds: Of worlds.
        days: That are simulated.
        out: Gets a directory a world.

    Returns:
        `policy_gradient_gain`, the same for each arm, and `lifts`, by world.
    """
    lifts = [_lifts(seed, days, out / f"seed-{seed}") for seed in seeds]
    by_arm = {
        f"{name}_gain": _interval([each[name] for each in lifts]) for name in ARMS if name != PLAIN
    }
    return {"policy_gradient_gain": by_arm["top_k_gain"], **by_arm, "lifts": lifts}


def ten_item_world_solved() -> bool:
    """Say whether each policy of ten items becomes what it is known to become."""
    rewards = np.arange(1.0, 11)
    behaviour = (11 - rewards) ** 2 / ((11 - rewards) ** 2).sum()
    copied = _policy_of(behaviour, np.ones(10), top_k=None)
    alone = _policy_of(behaviour, rewards, top_k=1)
    together = _policy_of(behaviour, np.array([1.0] * 8 + [9, 10]), top_k=2)
    return bool(
        np.abs(copied - behaviour).max() < 0.01 and alone[9] > 0.9 and together[8:].min() > 0.3
    )


def _policy_of(
    behaviour: np.ndarray, rewards: np.ndarray, *, top_k: int | None, steps: int = 4000
) -> np.ndarray:
    """Learn a softmax over items from its mean gradient on the log; plain for a top_k of None."""
    logits = np.zeros(len(rewards))
    for _ in range(steps):
        policy = _softmax(logits)
        weights = behaviour * rewards
        if top_k is not None:
            log_policy = np.log(policy)
            off_policy = to_numpy(off_policy_weight(log_policy, np.log(behaviour), cap=1e9))
            weights = weights * off_policy * to_numpy(top_k_multiplier(log_policy, top_k=top_k))
        gradient = policy * weights.sum() - weights
        logits -= 0.05 * gradient / (np.abs(gradient).max() + 1e-3)
    return _softmax(logits)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def _lifts(seed: int, days: int, out: Path) -> dict[str, float]:
    """Train all arms in the world of a seed; return the true lift of each over plain softmax."""
    log = out / PLAIN / "prepared"
    for name, changes in ARMS.items():
        _make(name, changes, seed, out / name, log)
    return {name: _lift(out, name, seed, days) for name in ARMS if name != PLAIN}


def _lift(out: Path, name: str, seed: int, days: int) -> float:
    """Return the true lift of an arm; what was simulated once is not simulated again."""
    simulated = out / f"{name}-{days}-days"
    figures = simulated / "simulation.json"
    if not figures.exists():
        settings = SimulationSettings(days=days, seed=seed)
        simulate.main([out / PLAIN, out / name], simulated, settings)
    return json.loads(figures.read_text(encoding="utf-8"))["truth"]["lift"]


def _make(name: str, changes: Sequence[str], seed: int, out: Path, log: Path) -> None:
    """Make a bundle, of a log that is prepared once a seed."""
    settings = load_settings(CONFIG, [f"seed={seed}", f"name={name}", *changes])
    if name == PLAIN:
        plain = settings.candidates.model_copy(update={"policy_gradient": None})
        settings = settings.model_copy(update={"candidates": plain})
    out.mkdir(parents=True, exist_ok=True)
    if name != PLAIN and not (out / "prepared").exists():
        (out / "prepared").symlink_to(log.resolve())
    for step in STEPS:
        run.run_one(step, settings, out)


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """Return the geometric mean of changes over seeds with its 95 % interval."""
    logs, number = np.log1p(values), len(values)
    reach = 0.0
    if number > 1:
        reach = float(stats.t.ppf(0.975, number - 1) * stats.sem(logs))
    mean = float(logs.mean())
    low, value, high = (float(np.expm1(mean + side * reach)) for side in (-1, 0, 1))
    return {"value": value, "low": low, "high": high, "seeds": number}


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--out", type=Path, help="keep the runs here, and go on with them")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
