"""Calls that cannot be answered in time are refused at once, and not worked on."""

import threading
import time
from types import SimpleNamespace

import grpc
import pytest

from serving.call_pool import CallPool, refusable
from serving.server import usual_threads
from serving.settings import LimitSettings, ServerSettings
from serving.v1 import admin_pb2 as ab
from serving.v1 import admin_pb2_grpc
from serving.v1 import recommender_pb2 as pb

NOW = 1000.0


class Work:
    """Calls that end when they are told to."""

    def __init__(self, pool):
        self._pool, self.release, self._futures = pool, threading.Event(), []
        self.handler = refusable(lambda: None)

    def call(self, deadline=None):
        """Submit a call; return a future of what it would have waited, None if it is answered."""
        event = SimpleNamespace(call_details=SimpleNamespace(deadline=deadline or NOW + 1e9))

        def function(*_):
            if self._pool.refused_wait_seconds is None:
                self.release.wait(10)
            return self._pool.refused_wait_seconds

        self._futures.append(self._pool.submit(function, event, self.handler))
        return self._futures[-1]

    def fill(self, number):
        """Submit calls that are answered."""
        for _ in range(number):
            self.call()


@pytest.fixture
def make_work():
    made = []

    def make(places=2, max_wait_seconds=10.0, spacing_seconds=1.0):
        pool = CallPool(places, max_wait_seconds, clock=lambda: NOW)
        pool._spacing_seconds = spacing_seconds
        made.append((pool, Work(pool)))
        return made[-1][1]

    yield make
    for pool, work in made:
        work.release.set()
        pool.shutdown()


def test_call_waits_for_its_place_in_the_queue(make_work):
    work = make_work(places=2, max_wait_seconds=4.5)
    work.fill(4)  # two worked on, for half; two waiting: the next would wait for three seconds
    work.call()
    assert work._pool.num_waiting == 3
    work.call()
    refused = work.call()
    assert refused.result(5) == pytest.approx(5.0)
    assert work._pool.num_waiting == 4


def test_nobody_is_refused_while_a_place_is_free(make_work):
    work = make_work(places=2, max_wait_seconds=0.001)
    work.fill(1)
    answered = work.call()
    work.release.set()
    assert answered.result(5) is None


def test_call_that_would_be_late_is_refused_by_its_deadline(make_work):
    work = make_work(places=1, spacing_seconds=1.0)
    work.fill(2)  # the next would wait 1.5 s, which may become 3, and take 1
    assert work.call(NOW + 3.9).result(5) == pytest.approx(1.5)
    in_time = work.call(NOW + 4.1)
    work.release.set()
    assert in_time.result(5) is None


def test_call_that_need_not_wait_is_never_refused_for_its_deadline(make_work):
    work = make_work(spacing_seconds=5.0)
    in_a_hurry = work.call(NOW + 0.1)
    work.release.set()
    assert in_a_hurry.result(5) is None


def test_calls_of_unknown_deadline_wait_as_long_as_any_may(make_work):
    work = make_work(places=1, max_wait_seconds=1.4)
    work.fill(1)
    assert work.call(float("inf")) is not None
    assert work._pool.num_waiting == 1
    refused = work._pool.submit(lambda _: work._pool.refused_wait_seconds, work.handler)
    assert refused.result(5) == 1.5
    assert work._pool.refused_wait_seconds is None  # of this thread, which refused


def test_refusal_that_fails_is_the_callers_and_nobody_elses(make_work):
    work = make_work(places=1, max_wait_seconds=0.5)
    work.fill(1)
    with pytest.raises(ZeroDivisionError):
        work._pool.submit(lambda _: 1 // 0, work.handler).result(5)
    assert work._pool.refused_wait_seconds is None


def test_call_that_nobody_said_may_be_refused_is_let_in(make_work):
    work = make_work(places=1, max_wait_seconds=0.5)
    work.fill(3)
    let_in = work._pool.submit(lambda: work._pool.refused_wait_seconds)
    work.release.set()
    assert let_in.result(5) is None


def test_spacing_follows_the_calls_and_failures_count_too():
    pool = CallPool(1, 10.0)
    for _ in range(60):
        pool.submit(time.sleep, 0.005).result()
    assert 0.0045 < pool._spacing_seconds < 0.05
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result()
    assert pool._num_calls == 0
    pool.shutdown()


def test_calls_that_end_together_cost_their_share_of_the_time():
    pool, meeting = CallPool(1, 10.0), threading.Barrier(8)

    def call():
        time.sleep(0.04)
        meeting.wait(10)

    for _ in range(12):
        for future in [pool.submit(call) for _ in range(8)]:
            future.result(10)
    assert 0.04 / 8 / 2 < pool._spacing_seconds < 0.04
    pool.shutdown()


@pytest.fixture
def busy(start_server, open_stub, recommender):
    """A server of one place that is taken, and usually for 20 s: half of that is left."""
    limits = LimitSettings(max_wait_ms=1000)
    server = start_server(threads=1, admin=True, settings=ServerSettings(limits=limits))
    entered, release = threading.Event(), threading.Event()
    recommender.wait = lambda: (entered.set(), release.wait(20))
    stub = open_stub(server)
    call = stub.RecommendItems.future(pb.RecommendItemsRequest(), timeout=30)
    assert entered.wait(10)
    server._pool._spacing_seconds = 20.0
    yield SimpleNamespace(server=server, stub=stub, call=call, release=release)
    release.set()
    call.result()


def test_refused_call_learns_at_once_when_to_come_again(busy, refusal, log_events):
    started = time.perf_counter()
    code, details = refusal(busy.stub.RecommendItems, pb.RecommendItemsRequest(user_id="u"))
    assert time.perf_counter() - started < 2
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details["ErrorInfo"].reason == "OVERLOADED"
    assert details["RetryInfo"].retry_delay.seconds == 10
    assert "RequestInfo" not in details  # unread: there is nothing to find it by
    value = busy.server.metrics.registry.get_sample_value
    call = {"method": "RecommendItems"}
    assert value("recsys_requests_total", call | {"code": "RESOURCE_EXHAUSTED"}) == 1
    assert value("recsys_errors_total", call | {"reason": "OVERLOADED"}) == 1
    assert value("recsys_request_duration_seconds_count", call) is None
    assert log_events.calls == []


def test_deadline_reaches_the_pool_through_grpc(busy, refusal):
    busy.server._pool._spacing_seconds = 0.5
    message = pb.RecommendItemsRequest()
    code, details = refusal(busy.stub.RecommendItems, message, timeout=0.8)
    assert (code, details["ErrorInfo"].reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    patient = busy.stub.RecommendItems.future(message, timeout=30)
    busy.release.set()
    assert len(patient.result().items) == 4


def test_operator_and_health_are_let_through(busy, open_channel):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    channel = open_channel(busy.server)
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    reply = admin.BlockItems(ab.BlockItemsRequest(item_ids=["i0"]), timeout=10)
    assert reply.blocked_item_count == 1
    check = health_pb2_grpc.HealthStub(channel).Check
    assert check(health_pb2.HealthCheckRequest(), timeout=10).status == 1


def test_call_whose_deadline_passed_in_the_queue_is_not_worked_on(
    start_server, open_stub, recommender
):
    server = start_server(threads=1)
    stub = open_stub(server)
    entered, release = threading.Event(), threading.Event()
    recommender.wait = lambda: (entered.set(), release.wait(20))
    first = stub.RecommendItems.future(pb.RecommendItemsRequest(), timeout=30)
    assert entered.wait(10)
    num_worked = len(recommender.requests)
    late = stub.RecommendItems.future(pb.RecommendItemsRequest(), timeout=0.2)
    assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    release.set()
    first.result()
    stub.GetBundle(pb.GetBundleRequest(), timeout=10)
    assert len(recommender.requests) == num_worked


def test_threads_follow_the_cores_within_bounds():
    assert [usual_threads(cores) for cores in (1, 2, 4, 64)] == [1, 2, 4, 8]
