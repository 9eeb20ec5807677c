"""Local processes for steps that are pure functions of one shard."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from recsys.progress import track

Result = TypeVar("Result")
Job = TypeVar("Job")


class Processes:
    """Maps a function over jobs, here or in other processes."""

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor

    def map(
        self, description: str, function: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> list[Result]:
        """Do the jobs, showing how many are done; return the results in the order of the jobs.

        Args:
            description: Shown.
            function: Of a module, so that another process finds it.
            jobs: Its arguments.
        """
        run = map if self._executor is None else self._executor.map
        return list(track(run(function, jobs), description, len(jobs)))


@contextlib.contextmanager
def local_processes(num_processes: int) -> Iterator[Processes]:
    """Start processes that live as long as the block; one means this one."""
    if num_processes == 1:
        yield Processes(None)
        return
    # Spawned, never forked: a fork copies locks that other threads hold.
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as executor:
        yield Processes(executor)
