"""What every benchmark prints at its end: figures, protocol, machine, as one JSON line."""

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Describe the machine: processor, usable cores, memory, versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }


def print_result(
    figures: Mapping[str, Any], *, as_json: bool, started: float, **context: Any
) -> None:
    """Print the figures as lines, then, if asked, everything as one JSON object.

    Args:
        figures: Name -> figure.
        as_json: Whether to end with the JSON object.
        started: `time.monotonic()` at the start.
        context: Protocol, seeds, row counts.
    """
    for name, value in figures.items():
        shown = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:32} {shown}")
    if as_json:
        wall_seconds = round(time.monotonic() - started, 1)
        result = {**figures, **context, "wall_seconds": wall_seconds, "machine": machine()}
        print(json.dumps(result))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
