"""Signals that ask a process to end, noted for the work under way to look at.

In goes SIGTERM or SIGINT, out comes a flag: the work ends where it loses nothing.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether somebody asked this process to end.

    Args:
        signal_name: `SIGTERM` or `SIGINT`; empty while nobody has asked.
    """

    def __init__(self) -> None:
        self.signal_name = ""

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take a signal: a handler as `signal.signal` wants it."""
        self.signal_name = signal.Signals(number).name


@contextlib.contextmanager
def noted_signals() -> Iterator[Interruption]:
    """Note signals while the block runs, in place of what they would do.

    Python gives signals to the main thread alone: in another one the flag never rises. A signal
    that the process was started to ignore (a job in the background) stays ignored.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interruption.note) for number in numbers}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
