"""Fixtures of every test: where the real logs lie, if anywhere."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.serving.redis_server import RedisServer


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real logs; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("RECSYS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real logs at {path}: set RECSYS_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def redis_server() -> Iterator["RedisServer"]:
    """A real server of Redis for the tests of one process, which flush it; skips without one."""
    from tests.serving.redis_server import new_server

    server = new_server().start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of one whole run over a tiny synthetic world, shared by all test processes."""
    from pipelines.config import load_settings
    from pipelines.run import main

    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    with (shared / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        main(load_settings(Path(__file__).with_name("tiny.toml")), shared / "tiny")
    return shared / "tiny"


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make the bundle of the tiny run anew, with some settings overridden."""
    from pipelines import make_bundle
    from pipelines.config import load_settings
    from pipelines.paths import RunPaths

    def make(*overrides: str) -> Path:
        out = tmp_path_factory.mktemp("bundle")
        settings = load_settings(Path(__file__).with_name("tiny.toml"), overrides)
        make_bundle.main(settings, RunPaths(tiny_run), out)
        return out

    return make
