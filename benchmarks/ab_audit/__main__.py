"""The audit of everything that compares two recommenders, on known answers.

aa_false_positive        share of 10,000 tests without an effect that find one, of four analyses
                         the one farthest from 5 %
peeking_false_positive   the same of always-valid p-values looked at twenty times
coverage                 share of 10,000 intervals that hold the true effect, the farthest from 95 %
estimator_max_error      of any off-policy estimator's expectation from its closed form
dr_relative_rmse         of the doubly robust estimate, in the synthetic world
cluster_coverage         of its interval over users; `row_coverage` of that over rows
cuped_cut_synthetic      variance cut where the correlation is .6; `cuped_cut_kuairand`: there
ranx_max_difference      of any ranking metric; `ranx_speed_ratio`: ranx's time over ours

python -m benchmarks.ab_audit [--data DIR] [--json]
"""

import argparse
import time
from pathlib import Path

from benchmarks.ab_audit import (
    closed_forms,
    experiments,
    kuairand,
    obp_twin,
    open_bandit,
    ranking_metrics,
    world,
)
from benchmarks.output import print_result
from benchmarks.real_logs import find_logs

SEED = 0


def main() -> None:
    """Run every part, and say what was skipped."""
    started = time.monotonic()
    arguments = _parse_arguments()
    number = arguments.experiments
    figures = experiments.audit(number, SEED)
    figures |= {"estimator_max_error": closed_forms.max_error(SEED)}
    figures |= obp_twin.audit(SEED)
    figures |= world.audit(arguments.replications, SEED)
    if arguments.data is None:
        print("skipped: KuaiRand and Open Bandit; give the folder of the real logs with --data")
    else:
        folder = find_logs(arguments.data)
        figures |= open_bandit.audit(folder, SEED) | kuairand.audit(folder, number, SEED)
    figures |= ranking_metrics.audit(SEED)
    print_result(
        figures,
        as_json=arguments.json,
        started=started,
        experiments=number,
        replications=arguments.replications,
        seed=SEED,
    )


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--replications", type=int, default=400)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
