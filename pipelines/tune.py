"""Search hyper-parameters of one stage by its validation metric; the test part is never read.

best.toml        the configuration with the best trial's settings: `recsys run --config` takes it
trials.json      every trial: settings, metric by epoch, state
report.html      how the search went
study.db, trials/    see `pipelines.study`
"""

import json
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from pipelines.config import to_override, to_toml
from pipelines.paths import RunPaths
from pipelines.run import run_one, settings_of
from pipelines.search_space import SearchSpace, new_search_space
from pipelines.study import Plan, directory_of, finished_trials, open_study
from pipelines.study_processes import run_study
from recsys.artefacts import MANIFEST, UNFINISHED, hash_file, hash_json
from recsys.data.prepared import load_prepared
from recsys.errors import TrainingError
from recsys.evaluation.tuning_report import write_tuning_report
from recsys.settings import RecsysSettings, TuneSettings

if TYPE_CHECKING:
    from recsys.core.training import AfterEpoch, TrainingHistory


def main(settings: RecsysSettings, out: Path, announce: Callable[[str], None]) -> dict[str, Any]:
    """Prepare the log, run the trials that are missing, write the results; return them in short.

    Args:
        settings: The configuration, with its `tune`.
        out: Directory of the run; the study gets `tune/` in it.
        announce: Takes a line for the user.

    Raises:
        ConfigError: The space is wrong.
        ArtefactError: What lies in `out` was made with other settings.
        TrainingInterrupted: A signal asked for the end; started again, it goes on.
        TrainingError: No trial works.
    """
    space, paths = new_search_space(settings), RunPaths(out)
    run_one("prepared", settings, out, announce=announce)
    stage = settings.tune.stage
    log_hash = hash_file(paths.prepared / MANIFEST)
    identity = hash_json([stage, settings_of(stage, settings), log_hash])
    train = partial(train_stage, paths.prepared)
    plan = Plan(settings, out / "tune", identity, train)
    run_study(plan, announce)
    return write_results(plan, space)


def train_stage(
    prepared: Path, settings: RecsysSettings, directory: Path, after_epoch: "AfterEpoch"
) -> "TrainingHistory":
    """Train the net of the stage that is tuned: no export, no vectors."""
    import keras

    keras.utils.clear_session()  # else the graphs of all trials stay in memory
    # It takes each trial's step for one function that is traced again and again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    log = load_prepared(prepared)
    if settings.tune.stage == "candidates":
        from pipelines import train_candidates

        model = train_candidates.new_model(log, settings.candidates, seed=settings.seed)
        return train_candidates.train_model(
            model,
            log,
            directory,
            seed=settings.seed,
            learned_until=train_candidates.begin(model, log, directory),
            after_epoch=after_epoch,
        )
    from pipelines import ranking_training, train_ranking
    from recsys.ranking.items import ItemFeatures

    items = ItemFeatures.build(log.catalogue, log.vocabularies, settings.ranking)
    spec = train_ranking.spec_of(log, items, settings.ranking)
    with train_ranking.mapped_rows(log, items, spec, directory / UNFINISHED / "rows") as rows:
        _, history = ranking_training.train_model(
            rows,
            spec,
            settings.ranking,
            directory,
            seed=settings.seed,
            after_epoch=after_epoch,
        )
    return history


def write_results(plan: Plan, space: SearchSpace) -> dict[str, Any]:
    """Write the best configuration, all trials and the report; return the best trial.

    Raises:
        TrainingError: No trial was trained to its end.
    """
    with open_study(plan) as study:
        trials = finished_trials(study)
        importances = _importances(study, trials)
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        raise TrainingError(
            f"{plan.directory}: none of {len(trials)} trials was trained to its end, expected one: "
            f"raise tune.trials, or narrow tune.space to what works"
        )
    best, target = _best(trials, plan), plan.directory / "best.toml"
    described = [_describe(trial, space, plan) for trial in trials]
    overrides = [to_override(*each) for each in space.values_of(best.params).items()]
    value = f"{plan.metric} {best.value:.6g} on the validation part"
    made_by = f"# Trial {best.number} of {len(trials)}: {value}. Set by it:\n"
    found = space.settings_of(best.params).model_copy(update={"tune": TuneSettings()})
    set_here = "".join(f"#   {override}\n" for override in overrides)
    target.write_text(made_by + set_here + to_toml(found), "utf-8")
    _write_json(described, plan.directory / "trials.json")
    figures = {
        "name": plan.settings.name,
        "stage": plan.settings.tune.stage,
        "metric": plan.metric,
        "larger_is_better": plan.larger_is_better,
        "trials": described,
        "best": best.number,
        "overrides": overrides,
        "config": str(target),
        "importances": importances,
        "log_scaled": [name for name, each in space.distributions.items() if _is_log(each)],
    }
    write_tuning_report(plan.directory / "report.html", figures)
    return {
        "best": {"trial": best.number, plan.metric: best.value, "overrides": overrides},
        "trials": dict(Counter(each["state"] for each in described)),
        "config": str(target),
        "report": str(plan.directory / "report.html"),
    }


def _best(trials: list[FrozenTrial], plan: Plan) -> FrozenTrial:
    sign = 1 if plan.larger_is_better else -1
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(ended, key=lambda trial: sign * (trial.value or 0.0))


def _describe(trial: FrozenTrial, space: SearchSpace, plan: Plan) -> dict[str, Any]:
    problem = trial.user_attrs.get("problem")
    return {
        "trial": trial.number,
        "state": "failed" if problem else trial.state.name.lower(),
        "problem": problem,
        "is_baseline": trial.user_attrs.get("is_baseline", False),
        "settings": space.values_of(trial.params),
        plan.metric: trial.value if trial.state == TrialState.COMPLETE else None,
        "epochs": [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)],
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "directory": str(directory_of(plan, trial).relative_to(plan.directory)),
    }


def _importances(study: optuna.Study, trials: list[FrozenTrial]) -> dict[str, float]:
    """Return each setting's share in what the metric varies by; empty where nothing varies."""
    values = {trial.value for trial in trials if trial.state == TrialState.COMPLETE}
    return optuna.importance.get_param_importances(study) if len(values) > 1 else {}


def _is_log(distribution: object) -> bool:
    return isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log


def _write_json(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
