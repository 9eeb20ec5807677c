"""Where the real logs lie that some benchmarks need; they are no part of the project."""

import os
from pathlib import Path

DEFAULT = Path("../shared/data")


def find_logs(given: Path | None) -> Path:
    """Return the folder of the logs: the one given, else RECSYS_DATA, else `../shared/data`.

    Raises:
        SystemExit: There is none; says so, with status 0, since nothing was measured wrong.
    """
    folder = given or Path(os.environ.get("RECSYS_DATA", DEFAULT))
    if not folder.is_dir():
        print(f"skipped: no real logs at {folder}; give their folder with --data or RECSYS_DATA")
        raise SystemExit(0)
    return folder
