import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from recsys.guard import MIN_PATIENCE_SECONDS, PROBE_SECONDS, BusyError, Guard


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


class Hangs:
    """Work that hangs until it is told otherwise, in a guard whose clock is set by hand."""

    def __init__(self):
        self.now, self.release, self.done = 0.0, threading.Event(), threading.Semaphore(0)
        self.guard = Guard(8, "test", usual_seconds=0.001, clock=lambda: self.now)

    def hang(self, seconds=0.001):
        """Wait for hanging work; the clock says that it took MIN_PATIENCE_SECONDS and more."""

        def work():
            self.release.wait()
            self.done.release()

        with pytest.raises(TimeoutError, match="not done"):
            self.guard.run(work, seconds)
        self.now += 1.1 * MIN_PATIENCE_SECONDS

    def works(self):
        return self.guard.run(lambda: True, 5.0)


@pytest.fixture
def hangs():
    hangs = Hangs()
    yield hangs
    hangs.release.set()


def test_work_is_waited_for_as_long_as_is_usual():
    release, guard = threading.Event(), Guard(2, "test", usual_seconds=0.0)
    started = time.perf_counter()
    with pytest.raises(TimeoutError):
        guard.run(release.wait, 4 * MIN_PATIENCE_SECONDS)
    assert MIN_PATIENCE_SECONDS <= time.perf_counter() - started < 4 * MIN_PATIENCE_SECONDS
    release.set()


def test_who_has_much_time_waits_a_quarter_of_it():
    release, guard = threading.Event(), Guard(2, "test", usual_seconds=0.0)
    started = time.perf_counter()
    with pytest.raises(TimeoutError):
        guard.run(release.wait, 2.0)
    assert 0.5 <= time.perf_counter() - started < 2.0
    release.set()


def test_what_is_usual_is_learnt():
    moments = iter([0.0, 1.0, 2.0, 2.5])
    guard = Guard(1, "test", clock=lambda: next(moments))
    assert guard._patience_seconds() == math.inf
    guard.run(lambda: 1, 5.0)
    assert guard._patience_seconds() == pytest.approx(10 * 1.0)
    guard.run(lambda: 1, 5.0)
    assert guard._patience_seconds() == pytest.approx(10 * (0.95 * 1.0 + 0.05 * 0.5))


def test_after_work_that_hangs_the_next_is_refused_at_once(hangs):
    hangs.hang()
    with pytest.raises(BusyError, match="1 calls before this one hang"):
        hangs.works()


def test_work_that_is_late_for_its_caller_alone_keeps_no_other_away(hangs):
    hangs.hang()
    hangs.now -= 0.2 * MIN_PATIENCE_SECONDS
    assert hangs.works()


def test_now_and_then_one_tries_again(hangs):
    hangs.hang()
    hangs.now += PROBE_SECONDS
    hangs.hang()  # the one that tries
    with pytest.raises(BusyError):
        hangs.works()
    hangs.now += PROBE_SECONDS
    assert hangs.works()
    assert hangs.works()  # what still hangs is not held against the part that works again


def test_only_one_tries_at_a_time(hangs):
    hangs.hang()
    hangs.now += PROBE_SECONDS
    begun, refused = threading.Event(), threading.Event()

    def probe():
        begun.set()
        return refused.wait(5)

    with ThreadPoolExecutor(1) as pool:
        trying = pool.submit(hangs.guard.run, probe, 5.0)
        assert begun.wait(5)
        with pytest.raises(BusyError):
            hangs.works()
        refused.set()
        with suppress(TimeoutError):  # the guard may have been less patient than this machine
            trying.result()


def test_work_that_comes_back_opens_the_way(hangs):
    hangs.hang()
    hangs.release.set()
    assert hangs.done.acquire(timeout=5)
    _wait_until_free(hangs.guard)


def test_part_that_another_saw_hang_rests(hangs):
    hangs.guard.rest()
    with pytest.raises(BusyError, match="hangs"):
        hangs.works()
    hangs.now += PROBE_SECONDS
    assert hangs.works()


def test_many_that_hung_long_make_no_patience(hangs):
    for _ in range(5):
        hangs.hang()
        hangs.now += PROBE_SECONDS
    hangs.now += 1000.0
    hangs.release.set()
    for _ in range(5):
        assert hangs.done.acquire(timeout=5)
    _wait_until_free(hangs.guard)
    assert hangs.guard._usual_seconds < 0.01


def test_what_hung_long_is_not_usual(hangs):
    hangs.hang()
    hangs.now += 1000.0
    hangs.release.set()
    assert hangs.done.acquire(timeout=5)
    _wait_until_free(hangs.guard)
    assert hangs.guard._patience_seconds() < 2 * MIN_PATIENCE_SECONDS


def test_threads_end_with_their_guard():
    guard, meeting = Guard(4, "ends"), threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(guard.run, lambda: meeting.wait(5), 5.0) for _ in range(2)]:
            future.result()
    threads = [thread for thread in threading.enumerate() if thread.name == "ends"]
    assert len(threads) == 2
    del guard
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
