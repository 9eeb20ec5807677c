"""The signal by which an operator ends a server."""

import signal
import socket


class StopSignal:
    """SIGTERM and SIGINT, of which the main thread waits for the first.

    It waits for a byte that is written by whichever thread the system gives the signal to. An event
    that a handler sets is not enough: Python runs handlers in the main thread alone, and while that
    waits for the event, a signal to another thread does not wake it. Made in the main thread.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._writer.fileno())

    def wait(self) -> None:
        """Wait; a signal from before counts too."""
        self._reader.recv(1)
