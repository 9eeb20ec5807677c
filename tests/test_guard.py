import threading
import time

import pytest

from recsys.guard import BusyError, Guard


def test_work_gives_its_result():
    assert Guard(1, "test").run(lambda: 6 * 7, 1.0) == 42


def test_error_of_the_work_is_the_callers():
    with pytest.raises(ZeroDivisionError):
        Guard(1, "test").run(lambda: 1 / 0, 1.0)


def test_caller_waits_no_longer_than_there_is_time():
    release = threading.Event()
    started = time.perf_counter()
    with pytest.raises(TimeoutError, match="not done"):
        Guard(1, "test").run(release.wait, 0.05)
    assert 0.05 <= time.perf_counter() - started < 1.0
    release.set()


def test_no_time_left_is_no_wait():
    release = threading.Event()
    with pytest.raises(TimeoutError):
        Guard(1, "test").run(release.wait, -1.0)
    release.set()


def test_work_is_refused_at_once_while_all_threads_hang():
    guard, release, back = Guard(2, "test"), threading.Event(), threading.Semaphore(0)

    def hang():
        release.wait()
        back.release()

    for _ in range(2):
        with pytest.raises(TimeoutError):
            guard.run(hang, 0.01)
    started = time.perf_counter()
    with pytest.raises(BusyError, match="2 calls before this one hang"):
        guard.run(lambda: 1, 60.0)
    assert time.perf_counter() - started < 1.0
    release.set()
    for _ in range(2):
        assert back.acquire(timeout=5)
    _wait_until_free(guard)


def _wait_until_free(guard):
    for _ in range(500):
        try:
            assert guard.run(lambda: 1, 5.0) == 1
            return
        except TimeoutError:
            time.sleep(0.01)
    pytest.fail("the threads never came back")


def test_thread_is_free_when_its_result_is_there():
    guard = Guard(1, "test")
    assert [guard.run(lambda number=number: number, 5.0) for number in range(200)] == list(
        range(200)
    )


def test_work_of_many_callers_runs_side_by_side():
    guard, meeting = Guard(4, "test"), threading.Barrier(4)
    found = []

    def call():
        found.append(guard.run(lambda: meeting.wait(5), 5.0))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(found) == [0, 1, 2, 3]
