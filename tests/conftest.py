"""Fixtures of every test: where the real logs lie, if anywhere."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real logs; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("RECSYS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real logs at {path}: set RECSYS_DATA to their folder")
    return path
