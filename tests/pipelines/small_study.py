"""Studies of functions with a known best, through the driver of real trainings.

What trains lies in a module of its own, so that other processes find it.
"""

import os
import signal
from dataclasses import dataclass
from multiprocessing import parent_process
from types import SimpleNamespace

from pipelines.study import Plan, finished_trials, open_study
from pipelines.study_processes import run_study
from recsys.artefacts import UNFINISHED
from recsys.errors import TrainingError
from recsys.settings import DataSettings, RecsysSettings, SplitSettings

NUM_EPOCHS = 4
SPACE = {
    "candidates.dropout": {"low": 0.0, "high": 0.6},
    "candidates.training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
}


def new_settings(space=None, *, stage="candidates", **tune):
    training = {"max_epochs": NUM_EPOCHS, "learning_rate": 1e-3}
    return RecsysSettings(
        name="small",
        seed=5,
        data=DataSettings(source="synthetic"),
        split=SplitSettings(kind="leave_one_out"),
        candidates={"training": training},
        ranking={"training": training},
        tune={"stage": stage, "space": space or SPACE, **tune},
    )


@dataclass(frozen=True)
class Bowl:
    """Best at dropout 0.3 (of the stage named), better with each epoch; fails as it is told."""

    stage: str = "candidates"
    fails_above: float = 1.0
    kills_above: float = 1.0
    signals_above: float = 1.0

    def __call__(self, settings, directory, after_epoch):
        dropout = getattr(settings, self.stage).dropout
        if dropout > self.fails_above:
            raise TrainingError("the loss is nan")
        (directory / UNFINISHED).mkdir(exist_ok=True)
        is_first_time = not (directory / UNFINISHED / "checkpoint").exists()
        (directory / UNFINISHED / "checkpoint").touch()
        with (directory / "begun").open("a") as begun:
            begun.write("x")
        if is_first_time and dropout > self.kills_above and parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        if is_first_time and dropout > self.signals_above:
            os.kill(os.getpid(), signal.SIGTERM)
        error = (dropout - 0.3) ** 2
        # No `Epoch`: its module imports TensorFlow, seconds for each process.
        epochs = [
            SimpleNamespace(
                epoch=number,
                metrics={
                    "ndcg@10": (1 - error) * (number + 1) / NUM_EPOCHS,
                    "loss": error + NUM_EPOCHS - number,
                },
            )
            for number in range(NUM_EPOCHS)
        ]
        for epoch in epochs:
            after_epoch(epoch)
        return SimpleNamespace(best_metrics=epochs[-1].metrics)


def run(directory, settings, train=None, identity="log"):
    """Run a study; return its trials that are over, in order."""
    plan = Plan(settings, directory, identity, train or Bowl())
    run_study(plan, ignore)
    with open_study(plan) as study:
        return finished_trials(study)


def ignore(line):
    pass


def drawn(trials):
    return [trial.params for trial in trials]
