"""How often a caller may call."""

import grpc
import pytest

from serving import protection
from serving.addresses import network_of
from serving.rate_limit import RateLimiter
from serving.settings import LimitSettings, ServerSettings
from serving.tokens import add_token
from serving.v1 import recommender_pb2 as pb


class Seconds:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


def take(limiter, times, caller="a"):
    return [limiter.take(caller) == 0 for _ in range(times)]


def test_full_bucket_holds_the_burst_and_then_fills_by_the_rate(seconds):
    limiter = RateLimiter(2.0, 3, clock=seconds)
    assert take(limiter, 4) == [True] * 3 + [False]
    seconds.now += 0.5
    assert take(limiter, 2) == [True, False]
    seconds.now += 100
    assert take(limiter, 4) == [True] * 3 + [False]


def test_refusal_says_when_the_next_call_will_be_taken(seconds):
    limiter = RateLimiter(0.5, 1, clock=seconds)
    limiter.take("a")
    assert limiter.take("a") == 2.0
    seconds.now += 0.5
    assert limiter.take("a") == 1.5
    seconds.now += 1.5
    assert limiter.take("a") == 0


def test_refused_calls_cost_nothing(seconds):
    limiter = RateLimiter(1.0, 1, clock=seconds)
    assert take(limiter, 100).count(True) == 1
    seconds.now += 1
    assert take(limiter, 100).count(True) == 1


def test_rate_holds_in_the_long_run(seconds):
    limiter = RateLimiter(7.0, 5, clock=seconds)
    allowed = 0
    for _ in range(10_000):
        seconds.now += 0.01
        allowed += limiter.take("a") == 0
    assert allowed == pytest.approx(700 + 5, abs=2)


def test_callers_do_not_share(seconds):
    limiter = RateLimiter(1.0, 1, clock=seconds)
    assert take(limiter, 2, "a") == [True, False]
    assert take(limiter, 2, "b") == [True, False]


def test_callers_are_bounded_and_the_oldest_is_forgotten(seconds):
    limiter = RateLimiter(1.0, 1, clock=seconds, max_callers=3)
    for caller in ("a", "b", "a", "c", "d"):
        limiter.take(caller)
    assert len(limiter) == 3
    assert take(limiter, 1, "a") == [False]
    assert take(limiter, 1, "b") == [True]


def test_burst_is_a_second_unless_it_is_set():
    assert LimitSettings(calls_per_second=2.5).burst == 3
    assert LimitSettings(calls_per_second=2.5, burst_calls=9).burst == 9


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:192.0.2.7:1234", "192.0.2.7"),
        ("ipv6:%5B::1%5D:1234", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:99", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:99", "fe80::/64"),
        ("unix:/run/x.sock", "unix"),
        ("", ""),
    ],
)
def test_caller_without_a_name_is_its_address_whatever_its_port(peer, expected):
    assert network_of(peer) == expected


@pytest.fixture
def limited(start_server, seconds, monkeypatch):
    monkeypatch.setattr(protection.time, "monotonic", seconds)

    def start(**settings):
        limits = LimitSettings(calls_per_second=4, burst_calls=2)
        return start_server(settings=ServerSettings(limits=limits, **settings))

    return start


def test_calls_over_the_limit_are_refused_with_when_to_come_again(
    limited, open_stub, refusal, seconds
):
    first, second = open_stub(server := limited()), open_stub(server)
    for stub in (first, second):
        stub.GetBundle(pb.GetBundleRequest())
    code, details = refusal(first.GetBundle, pb.GetBundleRequest())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details["ErrorInfo"].reason == "TOO_MANY_CALLS"
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 250
    seconds.now += 0.25
    first.GetBundle(pb.GetBundleRequest())


def test_each_token_has_its_own_limit_and_failed_calls_count(limited, open_stub, refusal, tmp_path):
    path = tmp_path / "tokens.toml"
    one, other = (add_token(path, name, ["GetBundle"], None) for name in ("one", "other"))
    stub = open_stub(limited(tokens_file=path))

    def call(token, method=stub.GetBundle, message=None):
        metadata = [("authorization", f"Bearer {token}")]
        try:
            method(message or pb.GetBundleRequest(), metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    assert [call(one) for _ in range(3)] == ["OK", "OK", "RESOURCE_EXHAUSTED"]
    assert call(other) == "OK"
    denied = call(other, stub.RecommendItems, pb.RecommendItemsRequest())
    assert denied == "PERMISSION_DENIED"
    assert call(other) == "RESOURCE_EXHAUSTED"
    guesses = [call(f"guess-{number}") for number in range(3)]
    assert guesses == ["UNAUTHENTICATED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED"]
