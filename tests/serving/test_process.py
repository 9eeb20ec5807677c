"""The server as a process of its own: what it imports, what it keeps when killed, how it ends."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.client import RecommenderClient, watch

ROOT = Path(__file__).parents[2]
RUN = """
import runpy, sys
from pathlib import Path
from serving.server import ServerOptions, serve
fakes = runpy.run_path("tests/serving/conftest.py")
load = lambda directory: fakes["FakeRecommender"]("bundle-a")
serve(Path("bundle"), Path(sys.argv[1]), ServerOptions(port=0), load=load)
"""
TRAINERS = {"tensorflow", "keras", "lightgbm", "implicit", "matplotlib", "jax", "torch"}


@pytest.fixture
def start_process(tmp_path):
    """Start a server on the test's state directory; return the process and its address."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path / "state")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        line = process.stdout.readline()
        return process, re.search(r" on (\S+), ready in", line).group(1)

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_acknowledged_events_outlive_a_kill_and_sigterm_ends_cleanly(start_process):
    process, address = start_process()
    with RecommenderClient(address, timeout_seconds=10) as client:
        for number in range(5):
            event = watch(f"i{number}", 1000, event_id=str(number))
            assert client.record_events("u", [event]).new_event_count == 1
    process.kill()
    process.wait()
    process, address = start_process()
    with RecommenderClient(address, timeout_seconds=10) as client:
        assert client.recommend_items("u").items[0].item_id == "i5"
        event = watch("i0", 1000, event_id="0", moment=10**15)
        assert client.record_events("u", [event]).new_event_count == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert re.fullmatch(r"stopped in \d+\.\d\d s\n", process.stdout.read())


def test_server_process_imports_no_trainer():
    script = "import sys, serving.server; print(*{name.split('.')[0] for name in sys.modules})"
    reply = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not TRAINERS & set(reply.stdout.split())


def test_loading_a_bundle_imports_no_pandas(tiny_run):
    """Half a second of a server's start: some functions of Arrow import it without need."""
    script = (
        "import sys, pathlib; from serving.reload import load_recommender;"
        f"load_recommender(pathlib.Path({str(tiny_run / 'bundle')!r}));"
        "print('pandas' in sys.modules)"
    )
    reply = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert reply.stdout.strip() == "False"


@pytest.mark.parametrize("given_to", ["main_thread", "current_thread"])
def test_stop_signal_wakes_the_server_whichever_thread_gets_it(given_to):
    script = (
        "import signal, threading, time; from serving.stop_signal import StopSignal\n"
        "before = signal.getsignal(signal.SIGTERM)\n"
        "def send():\n"
        "    time.sleep(0.2)\n"
        f"    signal.pthread_kill(threading.{given_to}().ident, signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "threading.Thread(target=send, daemon=True).start()\n"
        "with StopSignal() as stop:\n"
        "    stop.wait()\n"
        "print('stopped', signal.getsignal(signal.SIGTERM) == before, signal.set_wakeup_fd(-1))"
    )
    command = [sys.executable, "-c", script]
    reply = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (reply.returncode, reply.stdout) == (0, "stopped True -1\n")


def test_server_process_is_spared_searches_through_what_was_imported():
    script = (
        "import gc; from serving.server import exempt_from_collection; exempt_from_collection();"
        "print(gc.get_freeze_count() > 10_000, gc.isenabled())"
    )
    command = [sys.executable, "-c", script]
    reply = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert reply.stdout == "True True\n"
