"""The signal by which an operator ends a server."""

import signal
import socket


class StopSignal:
    """SIGTERM and SIGINT, of which the main thread waits for the first, within the block.

    It waits for a byte that is written by whichever thread the system gives the signal to. An event
    that a handler sets is not enough: Python runs handlers in the main thread alone, and while that
    waits for the event, a signal to another thread does not wake it.
    """

    def __enter__(self) -> "StopSignal":
        """Begin to take signals; in the main thread."""
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        # Before the handlers: they do nothing, and a signal between the two would be lost.
        self._wakeup_fd = signal.set_wakeup_fd(self._writer.fileno())
        self._handlers = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        self._reader.close()
        self._writer.close()

    def wait(self) -> None:
        """Wait; a signal from before counts too."""
        self._reader.recv(1)
