"""Something done again and again, apart from the calls, until the server stops."""

import threading
from collections.abc import Callable


class Repeated:
    """Calls a function every so often, in a thread of its own.

    Args:
        function: Handles its own errors.
        seconds: Between the end of one call and the next.
        name: Of the thread.
    """

    def __init__(self, function: Callable[[], None], seconds: float, name: str) -> None:
        self._function, self._seconds = function, seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call comes after the first pause."""
        self._thread.start()

    def stop(self) -> None:
        """Wait for a call under way to end; no further one begins."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            self._function()
