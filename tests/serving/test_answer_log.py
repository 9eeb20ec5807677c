"""What is answered is written, whole or not at all, and nobody waits for it."""

import threading
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from recsys.data.answer_files import ANSWERS, answer_files
from recsys.errors import ConfigError
from recsys.requests import Explanation, RankedItem, Recommendation, Request
from recsys.settings import OrderSettings
from recsys.state import UserState
from serving import answer_log as module
from serving.answer_log import AnswerLog, LoggedAnswer
from serving.metrics import Metrics
from serving.settings import AnswerLogSettings, ServerSettings
from serving.v1 import admin_pb2 as ab
from serving.v1 import admin_pb2_grpc
from serving.v1 import recommender_pb2 as pb

DAY = 86_400_000_000


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def make_log(tmp_path, metrics, log_events, clock):
    def make(**settings):
        wanted = AnswerLogSettings(directory=tmp_path / "answers", **settings)
        return AnswerLog(wanted, metrics, log_events, clock)

    return make


@pytest.fixture
def serve(start_server, tmp_path):
    def start(**settings):
        wanted = AnswerLogSettings(directory=tmp_path / "answers", flush_seconds=600, **settings)
        return start_server(admin=True, settings=ServerSettings(answer_log=wanted))

    return start


def answered(user_id="u", request_id="r", moment=0, item_ids=("a", "b")):
    items = tuple(
        RankedItem(item_id, 5.0, "net", Explanation(0.5, 1, {"age": 7.0, "topic": "x"}), 0.5)
        for item_id in item_ids
    )
    return LoggedAnswer(
        request=Request(UserState(user_id), now=moment, request_id=request_id),
        answer=Recommendation(items, num_candidates=9),
        bundle_id="bundle",
        order=OrderSettings(policy="plackett_luce", temperature=2.0),
        num_items=len(items),
        has_features=False,
        has_candidates=False,
    )


def written(directory):
    tables = [pq.read_table(path) for path in answer_files(directory)]
    return [row for table in tables for row in table.to_pylist()]


def outcomes(metrics):
    value = metrics.registry.get_sample_value
    names = ("written", "dropped", "failed")
    return [value("recsys_answer_log_total", {"outcome": name}) or 0 for name in names]


def test_served_answer_is_written_with_its_context(serve, open_stub, tmp_path, clock):
    server = serve()
    context = pb.Context(surface="drawn", country="NL", logged_in=True, age=30)
    message = pb.RecommendItemsRequest(user_id="u", request_id="r1", context=context, page_size=2)
    page = open_stub(server).RecommendItems(message)
    server.stop()
    (row,) = written(tmp_path / "answers")
    items, moment = row.pop("items"), row.pop("answer_time")
    assert int(moment.timestamp()) == clock.now // 1_000_000
    absent = dict.fromkeys(("device", "language", "gender", "current_item_id", "candidates"))
    assert row == absent | {
        "user_id": "u",
        "request_id": page.request_id,
        "bundle_id": "bundle-a",
        "policy": "plackett_luce",
        "temperature": 5.0,
        "surface": "drawn",
        "country": "NL",
        "logged_in": True,
        "age": 30.0,
        "degraded_stages": [],
        "num_candidates": 40,
    }
    # All pages of the ranking, in its order.
    assert [(item["position"], item["item_id"]) for item in items] == [
        (position, f"i{position}") for position in range(10)
    ]
    assert items[0] == {
        "item_id": "i0",
        "position": 0,
        "propensity": 0.25,
        "expected_watch_seconds": 12.5,
        "source": "candidate_net",
        "candidate_score": None,
        "candidate_rank": None,
        "features": None,
    }


def test_greedy_answer_has_no_temperature(serve, open_stub, tmp_path):
    server = serve()
    open_stub(server).RecommendItems(pb.RecommendItemsRequest(user_id="u"))
    server.stop()
    (row,) = written(tmp_path / "answers")
    assert (row["policy"], row["temperature"], len(row["request_id"])) == ("greedy", None, 36)


def test_features_and_candidates_are_logged_but_not_sent(serve, open_stub, tmp_path, recommender):
    server = serve(feature_share=1.0, candidate_share=1.0)
    page = open_stub(server).RecommendItems(pb.RecommendItemsRequest(user_id="u", page_size=1))
    assert not page.items[0].HasField("explanation")
    server.stop()
    (row,) = written(tmp_path / "answers")
    assert len(row["items"]) == 5
    assert len(row["candidates"]) == 40
    assert row["items"][0]["candidate_rank"] == row["candidates"][0]["candidate_rank"] == 3
    assert row["items"][0]["features"] == [
        {"name": "age", "number": 7.0, "text": None},
        {"name": "topic", "number": None, "text": "cats"},
    ]


def test_shares_are_shares_of_requests(make_log):
    log = make_log(feature_share=0.3)
    chosen = [log.has_features(f"r{number}") for number in range(4000)]
    assert 0.27 < sum(chosen) / len(chosen) < 0.33
    assert chosen == [log.has_features(f"r{number}") for number in range(4000)]
    assert not any(log.has_candidates(f"r{number}") for number in range(100))


def test_further_pages_and_repeats_are_no_further_answers(serve, open_stub, tmp_path):
    server = serve()
    stub = open_stub(server)
    message = pb.RecommendItemsRequest(user_id="u", request_id="r1", page_size=2)
    token = stub.RecommendItems(message).next_page_token
    stub.RecommendItems(message)
    message.page_token = token
    stub.RecommendItems(message)
    server.stop()
    assert len(written(tmp_path / "answers")) == 1


def test_full_queue_drops_and_counts(make_log, metrics, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    log = make_log()
    for number in range(5):
        log.add(answered(request_id=str(number)))
    assert outcomes(metrics) == [0, 2, 0]
    log.stop()
    assert outcomes(metrics) == [3, 2, 0]


def test_answers_are_written_before_long_and_when_many_wait(make_log, tmp_path, monkeypatch):
    def wait_for(number):
        ends = time.monotonic() + 10
        while len(written(tmp_path / "answers")) < number:
            assert time.monotonic() < ends
            time.sleep(0.02)

    soon = make_log(flush_seconds=0.05)
    soon.start()
    soon.add(answered())
    wait_for(1)
    soon.stop()
    monkeypatch.setattr(module, "FLUSH_AT", 4)
    late = make_log(flush_seconds=600)
    late.start()
    for number in range(4):
        late.add(answered(request_id=str(number)))
    wait_for(5)
    late.stop()


def test_unwritable_log_costs_no_answer_and_is_told(make_log, metrics, log_events, monkeypatch):
    log = make_log()
    log.add(answered())
    monkeypatch.setattr(module, "_write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    log.flush()
    assert outcomes(metrics) == [0, 0, 1]
    assert log_events.calls[-1].kwargs["error"] == "disk full"


def test_readers_never_meet_a_part_of_a_file(make_log, tmp_path):
    log = make_log()
    stop, bad = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                assert all(row["bundle_id"] for row in written(tmp_path / "answers"))
            except Exception as error:
                bad.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        log.add(answered(request_id=str(number)))
        log.flush()
    stop.set()
    reader.join()
    assert bad == []
    names = [path.name for path in (tmp_path / "answers").iterdir() if path.is_file()]
    assert len(names) == 30
    assert all(name.startswith("answers-") for name in names)


def test_old_files_are_deleted(make_log, tmp_path, clock):
    log = make_log(keep_days=3)
    for days in (5, 2):
        log.add(answered(moment=clock.now - days * DAY, request_id=str(days)))
        log.flush()
    assert [row["request_id"] for row in written(tmp_path / "answers")] == ["2"]
    clock.now += 2 * DAY
    log.flush()
    assert written(tmp_path / "answers") == []


def test_deleted_user_leaves_files_and_queue_and_later_answers_stay(make_log, tmp_path, clock):
    log = make_log()
    for user_id in ("u", "v"):
        log.add(answered(user_id, moment=clock.now))
    log.flush()
    log.add(answered("u", "waiting", moment=clock.now))
    log.forget_user("u")
    log.add(answered("u", "after", moment=clock.now + 1))
    log.flush()
    log.add(answered("u", "was under way", moment=clock.now))
    log.flush()
    found = {(row["user_id"], row["request_id"]) for row in written(tmp_path / "answers")}
    assert found == {("v", "r"), ("u", "after")}


def test_deleted_user_is_taken_out_after_a_restart_and_then_forgotten(make_log, tmp_path, clock):
    log = make_log()
    log.add(answered("u", moment=clock.now))
    log.flush()
    log.forget_user("u")
    again = make_log()
    again.flush()
    assert written(tmp_path / "answers") == []
    # What another process had taken before it could know, it writes later.
    other = replace(answered("u", moment=clock.now))
    module._write(
        tmp_path / "answers" / f"answers-{clock.now}-{clock.now}-00.parquet",
        lambda path: pq.write_table(module.to_table([other]), path),
    )
    clock.now += 2 * module.DELETED_SECONDS * 1_000_000
    again.flush()
    assert written(tmp_path / "answers") == []
    assert list((tmp_path / "answers" / ".deleted").iterdir()) == []


def test_delete_user_reaches_the_log(serve, open_channel, open_stub, tmp_path, refusal):
    server = serve()
    open_stub(server).RecommendItems(pb.RecommendItemsRequest(user_id="u"))
    admin = admin_pb2_grpc.AdminServiceStub(open_channel(server))
    refusal(admin.DeleteUser, ab.DeleteUserRequest(user_id="u"))  # the store knows nothing of them
    server.stop()
    assert written(tmp_path / "answers") == []


def test_directory_that_cannot_be_made_is_refused(tmp_path, metrics, log_events, clock):
    (tmp_path / "file").write_text("")
    settings = AnswerLogSettings(directory=tmp_path / "file" / "answers")
    with pytest.raises(ConfigError, match="answer_log.directory"):
        AnswerLog(settings, metrics, log_events, clock)


def test_files_are_private_and_say_their_schema(make_log, tmp_path):
    log = make_log()
    log.add(answered(moment=5))
    log.flush()
    ((path, span),) = answer_files(tmp_path / "answers").items()
    assert span == (5, 5)
    assert path.stat().st_mode & 0o077 == 0
    assert pq.read_schema(path).remove_metadata() == ANSWERS
