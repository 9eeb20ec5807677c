"""Runs a study to its number of trials, in this process or in several."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized

from pipelines.environment import shared_cores
from pipelines.search_space import new_search_space
from pipelines.steps import locked
from pipelines.study import Plan, Worker, begin, finished_trials, open_study
from recsys.core.interruption import Interruption, noted_signals
from recsys.errors import RecsysError, TrainingError, TrainingInterrupted

LOOK_SECONDS = 0.2
"""Between two looks whether a signal came."""

Announce = Callable[[str], None]


def run_study(plan: Plan, announce: Announce) -> None:
    """Begin the study or go on with it, until as many trials are over as it wants.

    Raises:
        ArtefactError: Another process is at work on it, or it is that of other settings.
        ConfigError: The space is wrong.
        TrainingInterrupted: A signal asked for the end; started again, it goes on.
        TrainingError: No trial works, or a process died.
    """
    space, tune = new_search_space(plan.settings), plan.settings.tune
    with locked(plan.directory), noted_signals() as interruption, open_study(plan) as study:
        begin(study, space, plan)
        missing = tune.trials - len(finished_trials(study))
        announce(f"tune: {max(missing, 0)} of {tune.trials} trials to do ({plan.directory})")
        if missing <= 0:
            return
        context = multiprocessing.get_context("spawn")
        remaining = context.Value("i", missing)
        if tune.processes == 1:
            Worker(study, plan, remaining, interruption, announce).run()
        else:
            _run_processes(plan, context, remaining, interruption, announce)


def _run_processes(
    plan: Plan,
    context: SpawnContext,
    remaining: "Synchronized[int]",
    interruption: Interruption,
    announce: Announce,
) -> None:
    number, problems = plan.settings.tune.processes, context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(plan, remaining, problems, announce))
        for _ in range(number)
    ]
    with shared_cores(number):
        for worker in workers:
            worker.start()
    _wait(workers, interruption)
    if interruption.signal_name:
        raise TrainingInterrupted(
            f"{interruption.signal_name} came: the study stopped, and is kept in {plan.directory}"
        )
    if not problems.empty():
        raise problems.get()
    if died := [worker.exitcode for worker in workers if worker.exitcode]:
        raise TrainingError(
            f"a process of the study ended with status {died[0]}, expected 0 (-9 may be a lack of "
            f"memory: lower tune.processes); its trial is begun again by the same command"
        )


def _wait(workers: list[SpawnProcess], interruption: Interruption) -> None:
    """Wait until all have ended; pass a signal on, once."""
    is_told = False
    while alive := [worker for worker in workers if worker.is_alive()]:
        connection.wait([worker.sentinel for worker in alive], LOOK_SECONDS)
        if interruption.signal_name and not is_told:
            is_told = True
            for worker in alive:
                worker.terminate()


def _work(
    plan: Plan,
    remaining: "Synchronized[int]",
    problems: "SimpleQueue[RecsysError]",
    announce: Announce,
) -> None:
    """Do one process's part."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with noted_signals() as interruption:
        try:
            with open_study(plan) as study:
                Worker(study, plan, remaining, interruption, announce).run()
        except TrainingInterrupted:
            return  # the process that passed the signal on says so
        except RecsysError as error:
            problems.put(error)


def _end_with_parent() -> None:
    """End this process in good order when the one that started it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
