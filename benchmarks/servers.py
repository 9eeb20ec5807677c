"""Servers under measurement: a process each, on a core of its own, with what /proc says of it."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 60
STAGE_SUM = re.compile(r'recsys_stage_duration_seconds_sum\{stage="(\w+)"\} ([\d.e+-]+)')
ANSWERS = re.compile(r"recsys_answers_total\{[^}]*\} ([\d.e+-]+)")


class Server:
    """A server process, from its start until the end of the block.

    Args:
        arguments: Python's, without store and ports; it prints "... on ADDRESS, ..." when ready.
        store: Users' state.
        log: File for what it says.
        core: The one core that it may use; None lets it use all.
    """

    def __init__(
        self, arguments: Sequence[str], store: Path, log: Path, core: int | None = None
    ) -> None:
        self._metrics_port = _free_port()
        ports = ["--port", "0", "--metrics-port", str(self._metrics_port)]
        started = time.perf_counter()
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, *arguments, "--store", str(store), *ports],
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
            )
        line = self._process.stdout.readline().strip() if self._process.stdout else ""
        self.ready_seconds = time.perf_counter() - started
        self.address = line.partition(" on ")[2].partition(",")[0]
        if not self.address:
            self.stop()
            raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")

    def __enter__(self) -> "Server":
        """Return the server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def stop(self) -> None:
        """End it as an operator would, and wait."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def cpu_seconds(self) -> float:
        """Return the processor time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mb(self) -> dict[str, float]:
        """Return resident memory, and what of it is no mapped file."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = {
            name: int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M).group(1)) / 1024  # type: ignore[union-attr]
            for name in ("VmRSS", "RssAnon")
        }
        return {"resident": found["VmRSS"], "private": found["RssAnon"]}

    def stage_seconds(self) -> tuple[float, dict[str, float]]:
        """Return how many rankings were made, and the seconds of each stage in all."""
        url = f"http://127.0.0.1:{self._metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        answers = sum(float(value) for value in ANSWERS.findall(text))
        return answers, {stage: float(value) for stage, value in STAGE_SUM.findall(text)}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
