"""What the parts of the ranking net are worth, and the 2016 paper's Table 1 redone.

On KuaiRand-Pure, measured on its validation day (30 April 2022), which nothing here is chosen by.

    parts    pipelines/configs/kuairand.toml with one part left out at a time
    depth    a plain net as in 2016 (quantiles with powers, no cross layers, attention or curve) by
             its hidden layers; `weighted_user_loss` is the share of watch time mispredicted over
             pairs of a user's clicked and unclicked impressions (Covington et al. 2016, 4.3). One
             net is scored by its click head too: what is lost where clicks weigh alike

    python -m benchmarks.ranking_ablation [--table parts|depth] [--data DIR] [--seeds 0] [--json]

Nets are kept below `--runs` and taken up again.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.output import print_result
from benchmarks.ranking_kuairand import measure, prepare_once, settings_of_log, train_once
from pipelines.environment import errors_in_a_line, set_up
from recsys.data.examples import VALIDATION
from recsys.data.prepared import Prepared
from recsys.evaluation.ranking import weighted_user_loss
from recsys.ranking.predictions import Predictions, ranking_predictions
from recsys.settings import RecsysSettings

PARTS: Mapping[str, Sequence[str]] = {
    "whole": (),
    "without cross layers": ("ranking.cross_layers=0",),
    "without attention": ("ranking.recent_length=0",),
    "one tower, no experts": ("ranking.num_experts=1",),
    "without pieces, with powers": ("ranking.num_pieces=1", "ranking.powers=true"),
    "without the curve": ("ranking.heads.curve.weight=0",),
    "without numeric dropout": ("ranking.numeric_dropout=0",),
    "without the pairwise loss": ("ranking.pairwise_weight=0",),
    "with item ids": ("ranking.item_ids=true",),
}
PLAIN = (
    "ranking.cross_layers=0",
    "ranking.recent_length=0",
    "ranking.num_experts=1",
    "ranking.num_pieces=1",
    "ranking.powers=true",
    "ranking.heads.curve.weight=0",
    "ranking.pairwise_weight=0",
)
HIDDEN = ("[]", "[256]", "[512]", "[1024]", "[512,256]", "[1024,512]", "[1024,512,256]")
DEPTH: Mapping[str, Sequence[str]] = {
    **{f"hidden {hidden}": (*PLAIN, f"ranking.hidden={hidden}") for hidden in HIDDEN},
    "hidden [512,256], no powers": (*PLAIN, "ranking.hidden=[512,256]", "ranking.powers=false"),
}
BY_CLICK = "hidden [512,256]"


def main() -> None:
    """Train what is not there yet, and measure all."""
    set_up()
    started = time.monotonic()
    arguments = _parse_arguments()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    table = PARTS if arguments.table == "parts" else DEPTH
    figures: dict[str, dict[str, float]] = {}
    with errors_in_a_line():
        for name, overrides in table.items():
            common = ("ranking.refit=false", *overrides)
            settings = settings_of_log(arguments.data, common)
            place = arguments.runs / "ranking_kuairand"
            log, prepared = prepare_once(settings, place)
            nets = [train_once(settings, prepared, place, seed) for seed in seeds]
            held_out = [_held_out(settings, log, net) for net in nets]
            figures[name] = _means([_figures(each, "expected_seconds") for each in held_out])
            if name == BY_CLICK:
                by_click = _means([_figures(each, "click") for each in held_out])
                figures[f"{name}, by its click head"] = {
                    "weighted_user_loss": by_click["weighted_user_loss"]
                }
            print(name, {key: round(value, 4) for key, value in figures[name].items()}, flush=True)
    print_result(
        {arguments.table: figures},
        as_json=arguments.json,
        started=started,
        protocol="KuaiRand-Pure part, train to 29 April 2022, validation 30 April",
        seeds=seeds,
    )


def _held_out(settings: RecsysSettings, log: Prepared, net: Path) -> Predictions:
    return ranking_predictions(settings.ranking, log, net, VALIDATION)


def _figures(found: Predictions, score: str) -> dict[str, float]:
    known = found.clicked >= 0
    seconds = found.watch_ms[known] / 1000
    loss = weighted_user_loss(
        found.user[known], found.clicked[known] > 0, seconds, found.values[score][known]
    )
    return measure(found, found.values) | {"weighted_user_loss": loss}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", choices=("parts", "depth"), default="parts")
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--seeds", default="0", help="one training each")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
