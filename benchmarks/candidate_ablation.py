"""What inputs and depth are worth: the paper's figure 6 redone, on the synthetic world.

Depth 0 is linear (the factorisation model that the paper started from), each further one a wider
tower; the four sets of inputs grow as in Covington et al. 2016, figure 6. All else is that of
pipelines/configs/synthetic.toml; every net is stopped by its validation day and measured on the
test day (NDCG@10 and HR@50, seen items filtered, mean over seeds). Trainings are kept below
`--runs` and taken up again.

    python -m benchmarks.candidate_ablation [--seeds 0,1] [--plot docs/candidate_depth.svg] [--json]

With `--log globo --data DIR`, the context columns of the Globo log are left out one by one instead,
measured on its validation day.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.candidates import each_metric, parts_of, prepare_once, train_seed
from benchmarks.output import print_result
from benchmarks.real_logs import find_logs
from pipelines.config import load_settings
from pipelines.train_candidates import served_crowd_of
from recsys.candidates.sequences import join_labels, join_sequences
from recsys.candidates.vectors import ValidationRanking
from recsys.data.examples import TEST, VALIDATION
from recsys.data.prepared import Prepared
from recsys.evaluation.plots import INK, SERIES, side_by_side
from recsys.settings import RecsysSettings

CONFIGS = Path(__file__).parents[1] / "pipelines" / "configs"
WORLD = ["data.options.users=6000", "data.options.items=3000"]
TOWERS = ("[]", "[256]", "[512, 256]", "[1024, 512, 256]", "[2048, 1024, 512, 256]")
"""Of depth 0 to 4, as in section 3.5 of the paper."""
NO_CONTEXT = ["candidates.context=[]", "candidates.age=false", "candidates.query_time=false"]
NO_EXAMPLE_AGE = ["candidates.example_age=false"]
INPUTS = {
    "watches": [*NO_CONTEXT, *NO_EXAMPLE_AGE, "candidates.searches=false"],
    "+ searches": [*NO_CONTEXT, *NO_EXAMPLE_AGE],
    "+ example age": NO_CONTEXT,
    "all": [],
}
GLOBO_COLUMNS = ("device", "country", "region", "referrer_type")

Cells = dict[str, dict[str, float]]


def main() -> None:
    """Train every cell of the table, measure, print, plot."""
    started = time.monotonic()
    arguments = _parse_arguments()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    place = arguments.runs / f"candidate_ablation_{arguments.log}"
    cells = _globo_cells(arguments) if arguments.log == "globo" else _world_cells()
    split = VALIDATION if arguments.log == "globo" else TEST
    table: Cells = {}
    for name, settings in cells.items():
        log = prepare_once(settings, place)
        table[name] = _measure(log, settings, place, seeds, split)
        print(f"{name:28} " + "  ".join(f"{k} {v:.4f}" for k, v in table[name].items()))
    if arguments.plot is not None:
        arguments.plot.write_text(side_by_side([_draw("ndcg@10", table), _draw("hr@50", table)]))
    print_result({}, as_json=arguments.json, started=started, seeds=seeds, cells=table)


def _world_cells() -> dict[str, RecsysSettings]:
    return {
        f"{inputs}, depth {depth}": load_settings(
            CONFIGS / "synthetic.toml",
            [
                *WORLD,
                f"candidates.tower={tower}",
                "candidates.training.tensorboard=false",
                *changes,
            ],
        )
        for inputs, changes in INPUTS.items()
        for depth, tower in enumerate(TOWERS)
    }


def _globo_cells(arguments: argparse.Namespace) -> dict[str, RecsysSettings]:
    common = [
        f"data.path={find_logs(arguments.data) / 'globo-news'}",
        "candidates.training.tensorboard=false",
    ]
    left_out = {"all": GLOBO_COLUMNS, "none": ()} | {
        f"without {column}": tuple(other for other in GLOBO_COLUMNS if other != column)
        for column in GLOBO_COLUMNS
    }
    return {
        name: load_settings(
            CONFIGS / "globo_streaming.toml", [*common, f"candidates.context={list(columns)}"]
        )
        for name, columns in left_out.items()
    }


def _measure(
    log: Prepared, settings: RecsysSettings, place: Path, seeds: list[int], split: int
) -> dict[str, float]:
    labels = join_labels(
        parts_of(log),
        settings.candidates,
        split=split,
        num_trained=log.catalogue.num_trained,
        targets_only=True,
    )
    ranking = ValidationRanking(
        join_sequences(parts_of(log)),
        labels,
        settings.candidates,
        crowd=served_crowd_of(log, settings.candidates, learned_until=log.data_until),
    )
    figures = []
    for seed in seeds:
        nets, _ = train_seed(log, settings, place, seed, retrain=False)
        figures.append(ranking.ranks(nets.user_vectors(ranking.inputs), nets.item_vectors()))
    by_seed = each_metric(np.stack(figures))
    means = {name: float(values.mean()) for name, values in by_seed.items()}
    spread = float(by_seed["ndcg@10"].mean(axis=1).std())
    return means | {"ndcg@10_deviation_between_seeds": spread}


def _draw(metric: str, table: Cells) -> Any:
    def draw(axes: Axes) -> None:
        for inputs, colour in zip(INPUTS, SERIES, strict=False):
            values = [table[f"{inputs}, depth {depth}"][metric] for depth in range(len(TOWERS))]
            axes.plot(range(len(TOWERS)), values, marker="o", color=colour, label=inputs)
        axes.set_title(f"{metric} by depth and inputs")
        axes.set_xlabel("hidden layers", color=INK)
        axes.set_xticks(range(len(TOWERS)))
        axes.legend()

    return draw


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--log", choices=["synthetic", "globo"], default="synthetic")
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--seeds", default="0", help="one training each")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
