"""Users of whom k watches are known: the neural process beside popularity and the ranking net.

    python -m benchmarks.ranking_cold_users [--data DIR] [--seeds 0,1,2] [--runs DIR] [--json]

KuaiRand-Pure: trained until 29 April, stopped, calibrated and chosen on 30 April, tested on 1 to 4
May. For each k the impressions of users with at least k earlier events of known watch time; the
newest k are all that anyone is told of the user. GAUC of `long_view`, by two rules of what is told:

moment   the k newest as of the impression. They change from one impression of a user to the next,
         so that AUC within the user is lower the better the user's level is known: an impression
         left out of "the others" is the likelier positive the fewer positives these have
         (docs/decisions/0004). Of the process also scores less a term of the request alone (what
         the k watches add to 16 reference items on average), which orders no request otherwise.
part     the k newest as of the user's first impression of the part, for all of that user's.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates import CONFIGS, prepare_once
from benchmarks.output import print_result
from benchmarks.peers.cut_histories import Impressions, cut_features, impressions_of
from benchmarks.real_logs import find_logs
from pipelines import train_ranking
from pipelines.config import load_settings
from pipelines.train_exploration import finish, train_exploration
from pipelines.train_ranking import spec_of
from recsys.artefacts import hash_json
from recsys.data.examples import TEST, TRAINING, VALIDATION
from recsys.data.prepared import Prepared
from recsys.evaluation.intervals import Interval, ratio_intervals
from recsys.evaluation.ranking import user_aucs
from recsys.exploration.predictor import Prediction, Predictor
from recsys.exploration.rows import ExplorationRows, exploration_rows
from recsys.ranking.items import ItemFeatures
from recsys.ranking.ranker import Ranker
from recsys.ranking.spec import FeatureSpec
from recsys.settings import ExplorationSettings, RecsysSettings

CONFIG = "kuairand.toml"
SIZES = (0, 1, 5, 10, 20)
CHOSEN_ON = (0, 1, 5, 10)
SCORES = ("mean", "expected_seconds", "completion_logit")
RULES = ("moment", "part")
CHUNK = 2048
NUM_REFERENCES = 16
BOOTSTRAP_ROUNDS = 1000
RATE = "item_watch_rate"

Scores = dict[str, np.ndarray]
"""float64 [seeds, n] by name of the score."""


@dataclass(frozen=True)
class World:
    """Everything that is scored.

    Args:
        rows: Of all parts, for the process.
        impressions: The same rows, for the ranking net.
        items, spec: Of the ranking net.
        num_trained: Items with a trained row.
        references: int64 [16], training rows whose items stand for any.
    """

    rows: ExplorationRows
    impressions: Impressions
    items: ItemFeatures
    spec: FeatureSpec
    num_trained: int
    references: np.ndarray


@dataclass(frozen=True)
class Case:
    """The impressions of one k and rule.

    Args:
        chosen: int64 [n], rows.
        rows: All rows, with their contexts cut.
    """

    chosen: np.ndarray
    rows: ExplorationRows

    @property
    def context(self) -> np.ndarray:
        """What is told: int32 [n, T]."""
        return self.rows.context[self.chosen]


def main() -> None:
    """Train every seed, choose the score on validation, test, print."""
    started = time.monotonic()
    arguments = parse_arguments()
    log_path = find_logs(arguments.data) / "kuairand-pure"
    overrides = [f"data.path={log_path}", "ranking.training.tensorboard=false"]
    # Nothing learns from the validation day: it is what all of them are stopped and chosen on.
    settings = load_settings(CONFIGS / CONFIG, [*overrides, "ranking.refit=false"])
    exploration = ExplorationSettings()
    exploration = exploration.model_copy(
        update={"training": exploration.training.model_copy(update={"tensorboard": False})}
    )
    place = arguments.runs / "ranking_cold_users"
    log = prepare_once(settings, place)
    world = load_world(log, settings, exploration, place / "rows")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    predictors = [process_of(world, exploration, place, seed) for seed in seeds]
    rankers = [ranker_of(log, settings, place, seed) for seed in seeds]
    on_validation = validation_gauc(world, predictors)
    score = best_score(on_validation)
    figures = {rule: test_figures(world, predictors, rankers, rule, score) for rule in RULES}
    print_result(
        figures["moment"] | {"by_part": figures["part"]},
        as_json=arguments.json,
        started=started,
        protocol="KuaiRand-Pure, test of 1 to 4 May, GAUC of long_view by known watches",
        config=CONFIG,
        seeds=seeds,
        chosen_score=score,
        validation_gauc=on_validation,
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the real logs")
    parser.add_argument("--seeds", default="0,1,2", help="one training each")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args()


def load_world(
    log: Prepared, settings: RecsysSettings, exploration: ExplorationSettings, scratch: Path
) -> World:
    """Compute the rows of all parts into a directory."""
    scratch.mkdir(parents=True, exist_ok=True)
    items = ItemFeatures.build(log.catalogue, log.vocabularies, settings.ranking)
    spec = spec_of(log, items, settings.ranking)
    splits = (TRAINING, VALIDATION, TEST)
    rows = exploration_rows(log, items, spec, splits, exploration.context_length, scratch)
    training = np.flatnonzero(rows.impressions.split == TRAINING)
    references = np.random.default_rng(0).choice(training, NUM_REFERENCES, replace=False)
    return World(
        rows, impressions_of(log, splits), items, spec, log.catalogue.num_trained, references
    )


def process_of(world: World, exploration: ExplorationSettings, place: Path, seed: int) -> Predictor:
    """Train a seed of the process, or take it up where it stands."""
    key = hash_json({**exploration.model_dump(mode="json"), "spec": asdict(world.spec)})
    out = place / f"process-{key[:12]}-seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    model, history = train_exploration(world.rows, exploration, out, seed=seed)
    finish(model, history, world.rows, out, seed=seed)
    return Predictor.load(out)


def ranker_of(log: Prepared, settings: RecsysSettings, place: Path, seed: int) -> Ranker:
    """Train a seed of the ranking net on whole histories, or take it up where it stands."""
    key = hash_json(settings.ranking.model_dump(mode="json"))
    out = place / f"ranking-{key[:12]}-seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    prepared = log.shards[0].directory.parents[1]
    train_ranking.main(settings.model_copy(update={"seed": seed}), prepared, out)
    return Ranker.load(out)


def case_of(rows: ExplorationRows, split: int, size: int, rule: str) -> Case:
    """Choose the impressions of users with so many known watches, and cut the contexts to them."""
    chosen = np.flatnonzero(rows.impressions.split == split)
    context = rows.context.copy()
    if rule == "part":  # rows of a user are in order of time
        _, first, user = np.unique(
            rows.impressions.user[chosen], return_index=True, return_inverse=True
        )
        context[chosen] = context[chosen[first]][user]
    told = replace(rows, context=context)
    return Case(chosen[told.context_sizes()[chosen] >= size], told.cut(size))


def validation_gauc(world: World, predictors: Sequence[Predictor]) -> dict[str, dict[int, float]]:
    """Return the mean GAUC of each score of the process on validation, by rule `moment`."""
    found: dict[str, dict[int, float]] = {}
    for size in CHOSEN_ON:
        case = case_of(world.rows, VALIDATION, size, "moment")
        scores, _ = process_scores(world, predictors, case, size, in_request=True)
        for name, values in scores.items():
            found.setdefault(name, {})[size] = gauc_interval(world, case, values).value
    return found


def best_score(by_score: Mapping[str, Mapping[int, float]]) -> str:
    """Return the score whose mean over the sizes is best."""
    return max(by_score, key=lambda name: sum(by_score[name].values()))


def test_figures(
    world: World,
    predictors: Sequence[Predictor],
    rankers: Sequence[Ranker],
    rule: str,
    score: str,
) -> dict[str, Any]:
    """Return the figures of the test by k."""
    # One context for all of a user's impressions: nothing is there to be taken off.
    score = score.removesuffix("_in_request") if rule == "part" else score
    figures: dict[str, dict[int, Any]] = {}
    for size in SIZES:
        case = case_of(world.rows, TEST, size, rule)
        every, predictions = process_scores(
            world, predictors, case, size, in_request=rule == "moment"
        )
        peers = {"popularity": popularity(world, case), **ranker_scores(world, rankers, case)}
        gaucs = {name: gauc_interval(world, case, values) for name, values in peers.items()}
        named = {
            f"process_{name}": gauc_interval(world, case, each) for name, each in every.items()
        }
        rivals = ("popularity", "ranking_expected_seconds")
        leads = {
            name: gauc_interval(world, case, every[score], less=peers[name]) for name in rivals
        }
        own = {
            "impressions": len(case.chosen),
            "gauc": {"process": named[f"process_{score}"].value}
            | {name: value.value for name, value in (gaucs | named).items()},
            "gauc_interval": {
                name: [value.low, value.high] for name, value in (gaucs | named).items()
            },
            "lead": {name: [each.value, each.low, each.high] for name, each in leads.items()},
            "beats_both": all(lead.value > 0 for lead in leads.values()),
            **spread_figures(case, predictions),
        }
        for name, value in own.items():
            figures.setdefault(name, {})[size] = value
    return figures


def process_scores(
    world: World, predictors: Sequence[Predictor], case: Case, size: int, *, in_request: bool
) -> tuple[Scores, list[list[Prediction]]]:
    """Return the scores of the process, and each seed's predictions in chunks.

    Args:
        world: Everything.
        predictors: One a seed.
        case: What is scored.
        size: k of the case.
        in_request: Give scores less the request's own term as well.
    """
    found: dict[str, list[np.ndarray]] = {}
    predictions = []
    for predictor in predictors:
        chunks = [predictor.predict(inputs) for inputs in _inputs(case, size)]
        predictions.append(chunks)
        raw = {
            name: np.concatenate([getattr(each, name)[:, 0] for each in chunks]) for name in SCORES
        }
        for name in SCORES:
            found.setdefault(name, []).append(raw[name])
        offset = _offsets(world, predictor, case, size) if in_request else {}
        for name, values in offset.items():
            found.setdefault(f"{name}_in_request", []).append(raw[name] - values)
    return {name: np.stack(values) for name, values in found.items()}, predictions


def ranker_scores(world: World, rankers: Sequence[Ranker], case: Case) -> Scores:
    """Return what the ranking net says when the cut context is all that it knows of the user."""
    chunks: list[list[dict[str, np.ndarray]]] = [[] for _ in rankers]
    for features in cut_features(
        world.impressions, case.chosen, case.context, world.items, world.spec, world.num_trained
    ):
        for ranker, found in zip(rankers, chunks, strict=True):
            found.append(ranker.score(features))
    return {
        f"ranking_{name}": np.stack(
            [np.concatenate([each[name][:, 0] for each in found]) for found in chunks]
        )
        for name in ("expected_seconds", "completion")
    }


def popularity(world: World, case: Case) -> np.ndarray:
    """Return the watch rates of the items as of the moment: [1, n]."""
    column = world.spec.item_numeric.index(RATE)
    return world.rows.impressions.features["candidate_numeric"][case.chosen, 0, column][None]


def gauc_interval(
    world: World, case: Case, scores: np.ndarray, *, less: np.ndarray | None = None
) -> Interval:
    """Return the GAUC over seeds, or what it is more than another's, resampling users."""
    weight, aucs = _mean_user_aucs(world, case, scores)
    if less is not None:
        aucs = aucs - _mean_user_aucs(world, case, less)[1]
    users = np.arange(len(aucs))
    found = ratio_intervals(
        {"gauc": aucs * weight}, {"gauc": weight}, users, rounds=BOOTSTRAP_ROUNDS, seed=0
    )
    return found["gauc"]


def spread_figures(case: Case, predictions: Sequence[Sequence[Prediction]]) -> dict[str, float]:
    """Return the coverage of the 80 % intervals in seconds, what lies outside, and the spread."""
    seconds = case.rows.impressions.watch_ms[case.chosen] / 1000
    low, high, deviation = (
        np.stack([np.concatenate([getattr(c, name)[:, 0] for c in seed]) for seed in predictions])
        for name in ("low_seconds", "high_seconds", "deviation")
    )
    below, above = float((seconds < low).mean()), float((seconds > high).mean())
    return {
        "coverage": 1 - below - above,
        "below": below,
        "above": above,
        "mean_deviation": float(deviation.mean()),
        "mean_width_seconds": float((high - low).mean()),
    }


def _mean_user_aucs(world: World, case: Case, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and AUCs, the mean over seeds, of the users with both classes: float64 [V]."""
    users = world.rows.impressions.user[case.chosen]
    labels = world.rows.impressions.completed[case.chosen] > 0
    found = [user_aucs(users, labels, each) for each in scores]
    return found[0][1].astype(np.float64), np.mean([aucs for aucs, _ in found], axis=0)


def _inputs(case: Case, size: int) -> Any:
    """Yield what the process is fed of the case, in chunks; one place at least for a watch."""
    context = case.context[:, : max(size, 1)]
    for start in range(0, len(case.chosen), CHUNK):
        chosen = case.chosen[start : start + CHUNK]
        yield case.rows.inputs(chosen, context[start : start + CHUNK])


def _offsets(world: World, predictor: Predictor, case: Case, size: int) -> Scores:
    """Return what the context adds to the reference items on average: float64 [n] each."""
    if size == 0:
        return {name: np.zeros(len(case.chosen)) for name in SCORES}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in SCORES}
    told_of = world.rows.inputs(world.references, world.rows.context[world.references])
    items = {name: values[:, 0] for name, values in told_of.items() if name.startswith("target_")}
    for inputs in _inputs(case, size):
        num_users = len(inputs["request"])
        inputs |= {
            name: np.broadcast_to(values, (num_users, *values.shape))
            for name, values in items.items()
        }
        told = predictor.predict(inputs)
        nothing = predictor.predict(
            inputs | {"context_known": np.zeros_like(inputs["context_known"])}
        )
        for name in SCORES:
            difference = getattr(told, name) - getattr(nothing, name)
            parts[name].append(difference.mean(axis=1))
    return {name: np.concatenate(values) for name, values in parts.items()}


if __name__ == "__main__":
    main()
