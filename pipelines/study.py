"""A study: trials of one search space that survive kills, one process or several at a time.

study.db                    what Optuna knows: SQLite, whose commits a kill cannot tear
trials/trial-0007/          curves.json of a trial; its checkpoints while it is under way

A trial holds a lock while it runs. One that runs by the record, but whose lock is free, was killed:
it is begun again with the same settings, and its training goes on from its checkpoint.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from pipelines.search_space import SearchSpace, new_search_space
from pipelines.steps import locked
from recsys.artefacts import UNFINISHED, hash_json
from recsys.core.interruption import Interruption
from recsys.core.random import stream_seed
from recsys.errors import ArtefactError, ConfigError, DataError, TrainingError, TrainingInterrupted
from recsys.settings import CandidateSettings, RankingSettings, RecsysSettings

if TYPE_CHECKING:  # it imports TensorFlow, which a process that only starts others does without
    from recsys.core.training import AfterEpoch, Epoch, TrainingHistory

STARTUP_TRIALS = 5
"""Trials without pruning: a median of fewer says little. If so many fail, so will the rest."""
WARMUP_EPOCHS = 1
"""Epochs without pruning in each trial."""
MAX_KILLS = 3
"""A trial that was killed so often may be what kills the process, by its memory."""

Train = Callable[[RecsysSettings, Path, "AfterEpoch"], "TrainingHistory"]


@dataclass(frozen=True)
class Plan:
    """What a study does; goes to other processes.

    Args:
        settings: The configuration, with its `tune`.
        directory: Of the study.
        identity: Of everything that a trial's result depends on beside what is drawn.
        train: Trains with the settings of a trial in its directory, and calls after each epoch.
    """

    settings: RecsysSettings
    directory: Path
    identity: str
    train: Train

    @property
    def metric(self) -> str:
        """What is optimised: the validation metric of the stage."""
        return self._stage.validation_metric

    @property
    def larger_is_better(self) -> bool:
        """Of the metric."""
        return self._stage.larger_is_better

    @property
    def _stage(self) -> CandidateSettings | RankingSettings:
        settings = self.settings
        return settings.candidates if settings.tune.stage == "candidates" else settings.ranking


@contextlib.contextmanager
def open_study(plan: Plan) -> Iterator[optuna.Study]:
    """Open the study for the time of the block, or begin it.

    Raises:
        ArtefactError: It is that of other settings, another space or another log.
    """
    plan.directory.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Processes wait for each other's writes; a trial writes a few rows an epoch.
    wait = {"connect_args": {"timeout": 60}}
    storage = optuna.storages.RDBStorage(f"sqlite:///{plan.directory}/study.db", wait)
    try:
        yield _load_study(plan, storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _load_study(plan: Plan, storage: optuna.storages.RDBStorage) -> optuna.Study:
    study = optuna.create_study(
        study_name="tune",
        storage=storage,
        direction="maximize" if plan.larger_is_better else "minimize",
        pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_EPOCHS),
        load_if_exists=True,
    )
    space = {name: each.model_dump(mode="json") for name, each in plan.settings.tune.space.items()}
    identity = hash_json([plan.identity, plan.metric, space])
    if study.user_attrs.setdefault("identity", identity) != identity:
        raise ArtefactError(
            f"{plan.directory}: was begun with another tune.space, other settings or another log; "
            f"go back to those, delete it to begin anew, or give another --out"
        )
    study.set_user_attr("identity", identity)
    return study


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are over, without those that were begun again under a new number."""
    return [trial for trial in study.trials if _is_finished(trial)]


def _is_finished(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return "problem" in trial.user_attrs
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def begin(study: optuna.Study, space: SearchSpace, plan: Plan) -> None:
    """Queue what comes before anything is drawn: killed trials, or the configuration itself."""
    if not study.trials and (drawn := space.drawn_of_settings()) is not None:
        study.enqueue_trial(dict(drawn), user_attrs={"is_baseline": True})
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        with contextlib.suppress(ArtefactError), locked(directory_of(plan, trial)):
            kept = {
                key: trial.user_attrs[key] for key in ("is_baseline",) if key in trial.user_attrs
            }
            kills = trial.user_attrs.get("kills", 0) + ("interrupted" not in trial.user_attrs)
            name = directory_of(plan, trial).name
            study.enqueue_trial(trial.params, {**kept, "kills": kills, "directory": name})
            study.tell(trial.number, state=TrialState.FAIL)


def directory_of(plan: Plan, trial: FrozenTrial | Trial) -> Path:
    """Return where a trial trains: where it was begun, if it was killed since."""
    name = trial.user_attrs.get("directory", f"trial-{trial.number:04d}")
    return plan.directory / "trials" / name


class Worker:
    """One process's part in a study.

    Args:
        study: Opened by this process.
        plan: What is done.
        remaining: Trials yet to be begun, by all processes.
        interruption: Raised between two trials, or before a training listens itself.
        announce: Takes a line for the user.
    """

    def __init__(
        self,
        study: optuna.Study,
        plan: Plan,
        remaining: "Synchronized[int]",
        interruption: Interruption,
        announce: Callable[[str], None],
    ) -> None:
        self._plan, self._remaining = plan, remaining
        self._interruption, self._announce = interruption, announce
        self._study, self._space = study, new_search_space(plan.settings)
        self._started = time.monotonic()

    def run(self) -> None:
        """Run trials until none remain, or the time is over.

        Raises:
            TrainingInterrupted: A signal asked for the end.
            TrainingError: No trial works.
        """
        while not self._is_out_of_time() and self._take():
            with self._remaining.get_lock():
                # Two that ask SQLite at one moment may be given the same waiting trial.
                trial = self._draw()
            self._run_trial(trial)
            self._check_some_work()

    def _draw(self) -> Trial:
        """Draw by a seed of the trial's own, so that a study gone on with draws what it would have.

        The seed is the count of those begun: two that finish at one moment, or one that went to
        another process after a kill, do not share theirs.
        """
        begun = sum(
            _is_finished(trial) or trial.state == TrialState.RUNNING for trial in self._study.trials
        )
        seed = stream_seed(self._plan.settings.seed, "tune", begun)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        return self._study.ask(dict(self._space.distributions))

    def _take(self) -> bool:
        with self._remaining.get_lock():
            self._remaining.value -= 1
            return self._remaining.value >= 0

    def _is_out_of_time(self) -> bool:
        limit = self._plan.settings.tune.max_seconds
        return limit is not None and time.monotonic() - self._started >= limit

    def _run_trial(self, trial: Trial) -> None:
        directory = directory_of(self._plan, trial)
        with locked(directory):
            directory.mkdir(exist_ok=True)
            try:
                value = self._train(trial, directory)
            except TrainingInterrupted:
                trial.set_user_attr("interrupted", True)
                raise
            except optuna.TrialPruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            except TrainingError as error:
                # To the sampler a pruned trial is a bad place, a failed one is none at all.
                self._give_up(trial, error, TrialState.PRUNED)
            except ConfigError as error:
                self._give_up(trial, error, TrialState.FAIL)
            else:
                self._study.tell(trial, value)
            shutil.rmtree(directory / UNFINISHED, ignore_errors=True)
        self._report(trial)

    def _train(self, trial: Trial, directory: Path) -> float:
        self._stop_if_asked()
        if (kills := trial.user_attrs.get("kills", 0)) >= MAX_KILLS:
            raise TrainingError(f"the process was killed {kills} times in this trial")
        settings = self._space.settings_of(trial.params)
        history = self._plan.train(settings, directory, partial(self._after_epoch, trial, settings))
        return history.best_metrics[self._plan.metric]

    def _after_epoch(self, trial: Trial, settings: RecsysSettings, epoch: "Epoch") -> None:
        metric = self._plan.metric
        if metric not in epoch.metrics:
            raise DataError(
                f"tune: expected {metric} of a validation part, got {epoch.metrics}; give the "
                f"[split] a validation part"
            )
        trial.report(epoch.metrics[metric], epoch.epoch)
        self._stop_if_asked()
        stage = getattr(settings, self._plan.settings.tune.stage)
        is_last = epoch.epoch + 1 >= stage.training.max_epochs
        if not is_last and trial.should_prune():
            raise optuna.TrialPruned

    def _stop_if_asked(self) -> None:
        if name := self._interruption.signal_name:
            raise TrainingInterrupted(
                f"{name} came: the study stopped, and is kept in {self._plan.directory}"
            )

    def _give_up(self, trial: Trial, error: Exception, state: TrialState) -> None:
        trial.set_user_attr("problem", str(error))
        self._study.tell(trial, state=state)

    def _report(self, trial: Trial) -> None:
        (over,) = (each for each in self._study.trials if each.number == trial.number)
        result = over.user_attrs.get("problem", "") or over.state.name.lower()
        figure = "" if over.value is None else f" {self._plan.metric} {over.value:.4g}"
        values = self._space.values_of(over.params)
        self._announce(f"trial {over.number}: {result}{figure} with {values}")

    def _check_some_work(self) -> None:
        finished = finished_trials(self._study)
        problems = [trial.user_attrs.get("problem") for trial in finished]
        if len(problems) >= STARTUP_TRIALS and all(problems):
            raise TrainingError(
                f"all of the first {len(problems)} trials failed, expected some to work; the "
                f"first: {problems[0]}"
            )
