"""To be shown: a server goes on answering, and rightly, whatever is done to it.

    swaps         1,000 bundles swapped under load: no error, no answer of two bundles
    corruptions   200 corrupted bundles offered: all refused, the good one goes on
    publishers    500 killed while they write a bundle: no bundle is ever seen in part
    terminations  100 times SIGTERM under load: every call that the server had is answered
    overload      three times what it can do: 90 % of its best rate is still answered
    stages        each broken, hanging, slow or giving NaN, alone and in pairs: every answer valid,
                  and flagged unless it is the one that all stages would have given
    soak          a million requests: its own memory grows by 20 MB at most

    python -m benchmarks.chaos [--quick] [--only swaps,stages] [--runs DIR] [--json]

Each trial's outcome is kept below `--runs` and not repeated (`--again` does): an interrupted run
goes on with the next. `--quick` makes fewer of each and takes some minutes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.chaos import bundle_trials, server_trials
from benchmarks.chaos.world import World, make_world
from benchmarks.output import print_result
from pipelines.environment import set_up

TRIALS: dict[str, tuple[Callable[[World, int], dict[str, Any]], int, int]] = {
    "swaps": (bundle_trials.swaps, 1000, 100),
    "corruptions": (bundle_trials.corruptions, 200, 50),
    "publishers": (bundle_trials.publisher_kills, 500, 50),
    "terminations": (server_trials.terminations, 100, 10),
    "overload": (server_trials.overload, 40, 8),
    "stages": (server_trials.stage_faults, 30_000, 5_000),
    "soak": (server_trials.soak, 1_000_000, 30_000),
}
"""Name -> what does it, how often, and how often with `--quick`."""
FIGURES = (
    *("swap_errors", "mixed_answers", "corrupt_accepted", "partial_reads", "sigterm_lost"),
    *("overload_goodput_share", "invalid_answers", "memory_growth_mb"),
)


def main() -> None:
    """Run the trials that are not done yet, and print what came of all."""
    set_up()
    started = time.monotonic()
    arguments = _parse_arguments()
    place = arguments.runs / "chaos"
    world = make_world(place)
    outcomes = {}
    for name in arguments.only.split(","):
        trial, often, quickly = TRIALS[name]
        number = quickly if arguments.quick else often
        outcomes[name] = _once(
            place / f"{name}-{number}.json", trial, world, number, again=arguments.again
        )
        print(f"{name}: {outcomes[name]}", flush=True)
    figures = {
        key: outcome[key] for outcome in outcomes.values() for key in FIGURES if key in outcome
    }
    asked = sum(outcome.get("requests", 0) for outcome in outcomes.values())
    print_result(
        {**figures, "requests": asked}, as_json=arguments.json, started=started, trials=outcomes
    )


def _once(
    path: Path,
    trial: Callable[[World, int], dict[str, Any]],
    world: World,
    number: int,
    *,
    again: bool,
) -> dict[str, Any]:
    if again or not path.exists():
        started = time.monotonic()
        outcome = trial(world, number)
        outcome["wall_seconds"] = time.monotonic() - started
        path.write_text(json.dumps(outcome, indent=1, sort_keys=True) + "\n")
    return json.loads(path.read_text())


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer of each, within 8 minutes")
    parser.add_argument("--only", default=",".join(TRIALS), help="trials, by commas")
    parser.add_argument("--again", action="store_true", help="repeat what is done")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
