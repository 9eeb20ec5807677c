"""What stands around a command: the environment, set before any library reads it, and its end."""

import contextlib
import os
import sys
from collections.abc import Iterator

from recsys.errors import RecsysError, TrainingInterrupted


def set_up() -> None:
    """Quiet TensorFlow's start-up lines, unless the user asked for them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


@contextlib.contextmanager
def shared_cores(num_processes: int) -> Iterator[None]:
    """Let processes started in the block use their share of the cores, and of a GPU's memory.

    Libraries read these when they are loaded, which is before any code of ours runs there.
    """
    threads = str(max(1, (os.cpu_count() or 1) // num_processes))
    thread_counts = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")
    shared = {name: threads for name in thread_counts} | {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    before = dict(os.environ)
    os.environ.update({name: value for name, value in shared.items() if name not in before})
    try:
        yield
    finally:
        for name in shared.keys() - before.keys():
            del os.environ[name]


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
    """Let an error of ours end the process in one line and exit status 1, never a traceback.

    A training that a signal ended in good order is no error.
    """
    try:
        yield
    except TrainingInterrupted as interrupted:
        print(f"recsys: {interrupted}; the same command again goes on", file=sys.stderr)
    except RecsysError as error:
        print(f"recsys: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
