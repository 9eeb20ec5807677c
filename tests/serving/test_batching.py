"""Who is ranked together, and that each gets what it would get alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from recsys.requests import Request
from recsys.state import UserState
from serving.batching import MAX_BATCH, Batching
from serving.status import DeadlineError


class Echo:
    """A recommender that says who asked, and how many were asked for together.

    The first it is asked for holds its place until `release`.
    """

    def __init__(self, *, bad=()):
        self.batches, self.times, self.bad = [], [], bad
        self.entered, self.release = threading.Event(), threading.Event()

    def recommend(self, requests, *, time_remaining):
        users = [request.user.user_id for request in requests]
        self.batches.append(users)
        self.times.append(time_remaining())
        if users == ["first"]:
            self.entered.set()
            self.release.wait(10)
        if set(users) & set(self.bad):
            raise ValueError(f"bad: {users}")
        return [f"for {user}" for user in users]


class Crowd:
    """Callers, each in a thread of its own, who queue in the order that they are named in."""

    def __init__(self, batching, recommender):
        self.batching, self.recommender = batching, recommender
        self.pool, self.futures = ThreadPoolExecutor(40), {}

    def call(self, user, seconds=60.0, *, recommender=None, explained=False):
        waiting = len(self.batching._queue)
        request = Request(UserState(user), now=0, explained=explained)
        self.futures[user] = self.pool.submit(
            self.batching.recommend, recommender or self.recommender, request, lambda: seconds
        )
        if user == "first":
            assert self.recommender.entered.wait(10)
        else:
            _wait_until(lambda: len(self.batching._queue) == waiting + 1)

    def results(self):
        self.recommender.release.set()
        for user, future in self.futures.items():
            if future.exception(10) is None:
                assert future.result() == f"for {user}"
        return self.recommender.batches


def _wait_until(is_so):
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.001)


@pytest.fixture
def make_crowd():
    made = []

    def make(places=1, max_batch_seconds=0.025, usual_seconds=0.001, bad=(), sizes=None):
        note_size = (lambda _: None) if sizes is None else sizes.append
        batching = Batching(places, max_batch_seconds, note_size=note_size, clock=lambda: 0.0)
        batching._usual_seconds = usual_seconds
        made.append(Crowd(batching, Echo(bad=bad)))
        return made[-1]

    yield make
    for crowd in made:
        crowd.recommender.release.set()
        crowd.pool.shutdown()


def test_lone_call_is_answered_alone(make_crowd):
    crowd = make_crowd()
    for user in ("a", "b"):
        request = Request(UserState(user), now=0)
        found = crowd.batching.recommend(crowd.recommender, request, lambda: 9.0)
        assert found == f"for {user}"
    assert crowd.recommender.batches == [["a"], ["b"]]


def test_those_that_wait_are_ranked_together_in_order(make_crowd):
    sizes = []
    crowd = make_crowd(sizes=sizes)
    for user in ("first", "a", "b", "c"):
        crowd.call(user)
    assert crowd.results() == [["first"], ["a", "b", "c"]]
    assert sizes == [1, 3]
    assert crowd.batching._num_free == 1


def test_batch_takes_no_longer_than_it_may(make_crowd):
    crowd = make_crowd(max_batch_seconds=0.025, usual_seconds=0.01)
    for user in ("first", "a", "b", "c", "d", "e"):
        crowd.call(user)
    found = crowd.results()
    # The clock stands still, so what is usual falls from one batch to the next.
    assert found[:2] == [["first"], ["a", "b"]]
    assert [user for users in found for user in users] == ["first", "a", "b", "c", "d", "e"]


def test_no_batch_is_larger_than_the_largest(make_crowd):
    crowd = make_crowd(usual_seconds=1e-9)
    users = ["first", *(str(number) for number in range(MAX_BATCH + 2))]
    for user in users:
        crowd.call(user)
    assert crowd.results() == [["first"], users[1 : MAX_BATCH + 1], users[MAX_BATCH + 1 :]]


@pytest.mark.parametrize("changes", [{"max_batch_seconds": 0.0}, {"usual_seconds": 0.0}])
def test_each_is_ranked_alone_where_batches_are_off_or_nothing_is_known(make_crowd, changes):
    crowd = make_crowd(**changes)
    for user in ("first", "a", "b"):
        crowd.call(user)
    assert crowd.results() == [["first"], ["a"], ["b"]]


def test_callers_of_another_bundle_are_ranked_apart(make_crowd):
    crowd, other = make_crowd(), Echo()
    crowd.call("first")
    crowd.call("a")
    crowd.call("of other", recommender=other)
    crowd.call("b")
    assert crowd.results() == [["first"], ["a", "b"]]
    assert other.batches == [["of other"]]


def test_explained_is_ranked_alone(make_crowd):
    crowd = make_crowd()
    crowd.call("first")
    crowd.call("a")
    crowd.call("explained", explained=True)
    crowd.call("b")
    assert crowd.results() == [["first"], ["a", "b"], ["explained"]]


@pytest.mark.parametrize("waiting", [["hurried", "a", "b", "c"], ["a", "hurried", "b", "c"]])
def test_batch_of_a_hurried_caller_takes_half_of_the_time_there_is(make_crowd, waiting):
    crowd = make_crowd(usual_seconds=0.001)
    crowd.call("first")  # after it 0.9 ms are usual: the clock stands still
    for user in waiting:
        crowd.call(user, 0.0055 if user == "hurried" else 9.0)
    assert crowd.results() == [["first"], waiting[:3], waiting[3:]]
    assert crowd.recommender.times[1] == 0.0055


def test_hurried_caller_does_not_break_up_a_larger_batch(make_crowd):
    crowd = make_crowd(usual_seconds=0.001)
    crowd.call("first")
    for user in ("a", "b", "hurried", "c"):
        crowd.call(user, 0.004 if user == "hurried" else 9.0)  # room for two
    assert crowd.results() == [["first"], ["a", "b", "c"], ["hurried"]]


def test_failure_of_one_is_its_own(make_crowd):
    crowd = make_crowd(bad=["b"])
    for user in ("first", "a", "b", "c"):
        crowd.call(user)
    assert crowd.results() == [["first"], ["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert isinstance(crowd.futures["b"].exception(), ValueError)
    assert crowd.futures["a"].exception() is None


def test_who_gave_up_is_not_ranked(make_crowd):
    crowd = make_crowd()
    crowd.call("first")
    crowd.call("gone", 0.0)
    crowd.call("a")
    assert crowd.results() == [["first"], ["a"]]
    assert isinstance(crowd.futures["gone"].exception(), DeadlineError)


def test_place_is_free_again_when_all_gave_up(make_crowd):
    crowd = make_crowd()
    crowd.call("first")
    crowd.call("gone", 0.0)
    assert crowd.results() == [["first"]]
    assert crowd.batching._num_free == 1


def test_as_many_rank_at_once_as_there_are_places():
    meeting = threading.Barrier(2)

    def recommend(requests, *, time_remaining):
        meeting.wait(10)
        return [request.user.user_id for request in requests]

    batching, recommender = Batching(2, 0.025), SimpleNamespace(recommend=recommend)
    with ThreadPoolExecutor(2) as pool:
        asked = [Request(UserState(user), now=0) for user in "ab"]
        found = pool.map(lambda each: batching.recommend(recommender, each, lambda: 9.0), asked)
        assert list(found) == ["a", "b"]


def test_what_is_usual_is_the_time_of_one_in_a_batch(make_crowd):
    crowd, now = make_crowd(usual_seconds=0.001, max_batch_seconds=1.0), [0.0]
    crowd.batching._clock = lambda: now[0]
    genuine = crowd.recommender.recommend

    def recommend(requests, *, time_remaining):
        answers = genuine(requests, time_remaining=time_remaining)
        now[0] += 0.4
        return answers

    crowd.recommender.recommend = recommend
    for user in ("first", "a", "b", "c", "d"):
        crowd.call(user)
    assert crowd.results() == [["first"], ["a", "b", "c", "d"]]
    usual = 0.9 * 0.001 + 0.1 * 0.4
    assert crowd.batching._usual_seconds == pytest.approx(0.9 * usual + 0.1 * 0.4 / 4)


def test_crowd_gets_each_its_own():
    batching = Batching(2, 0.025)

    def recommend(requests, *, time_remaining):
        time.sleep(0.0002)
        return [request.user.user_id for request in requests]

    recommender = SimpleNamespace(recommend=recommend)

    def call(number):
        request = Request(UserState(str(number)), now=0)
        return batching.recommend(recommender, request, lambda: 9.0) == str(number)

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(call, range(2000)))
    assert (batching._num_free, len(batching._queue)) == (2, 0)
