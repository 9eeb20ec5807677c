"""Calls under a known load have the deadline that they are given."""

import grpc
import pytest

from benchmarks.load import Caller


class Stub:
    """Ends each call at once; keeps its deadline."""

    def __init__(self):
        self.timeouts, self.RecommendItems = [], self

    def future(self, message, timeout):
        self.timeouts.append(timeout)
        return self

    def add_done_callback(self, done):
        done(self)

    def code(self):
        return grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("given", "expected"), [(0.05, 0.05), (None, 7.0)])
def test_open_loop_has_a_deadline_of_its_own(given, expected):
    caller = Caller("127.0.0.1:1", ["u"], timeout_seconds=7.0)
    caller._stub = stub = Stub()
    calls = caller.open(200, 0.1, timeout_seconds=given)
    caller.close()
    assert set(stub.timeouts) == {expected}
    assert calls.errors == {"UNAVAILABLE": len(calls)} and len(calls) > 3
