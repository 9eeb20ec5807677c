"""A server on a shared Redis: what it shares, and what it does without it."""

import io
import json
import socket
import threading
import time

import pytest

from recsys.errors import ConfigError, StateError
from serving.client import watch
from serving.open_store import open_store
from serving.redis_connection import PAUSE_SECONDS, RedisConnection
from serving.redis_store import RedisStore
from serving.server import new_logger
from serving.settings import StoreSettings
from serving.store import UnsureStateError
from serving.v1 import admin_pb2 as ab
from serving.v1 import recommender_pb2 as pb
from tests.serving.redis_server import new_server


@pytest.fixture
def settings(redis_server):
    redis_server.flush()
    return StoreSettings(url=redis_server.url, timeout_ms=1000)


@pytest.fixture
def own_server():
    server = new_server()
    yield server
    server.close()


@pytest.fixture
def silent_port():
    """Port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def record(stub, user_id, item_id, event_id):
    event = watch(item_id, 500, event_id=event_id)
    return stub.RecordEvents(pb.RecordEventsRequest(user_id=user_id, events=[event]))


def recommend(stub, user_id):
    return stub.RecommendItems(pb.RecommendItemsRequest(user_id=user_id), timeout=10)


def wait_until(holds, seconds=10.0):
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.02)


def test_servers_share_users_events_blocks_and_counters(
    start_server, open_channel, open_stub, settings, recommender
):
    from serving.v1 import admin_pb2_grpc

    one = start_server(RedisStore(settings), admin=True)
    other = start_server(RedisStore(settings))
    record(open_stub(one), "u", "i0", "1")
    assert recommend(open_stub(other), "u").items[0].item_id == "i1"
    assert record(open_stub(other), "u", "i0", "1").new_event_count == 0
    admin = admin_pb2_grpc.AdminServiceStub(open_channel(one))
    admin.BlockItems(ab.BlockItemsRequest(item_ids=["i1"]))
    assert recommend(open_stub(other), "v").items[1].item_id == "i2"
    # Both fakes are one object, which each server counts for: its own at once, the other's later.
    assert recommender.counts["i0"] == 500
    wait_until(lambda: recommender.counts["i0"] == 1000)


def test_answers_go_on_without_the_store_and_with_it_again(start_server, open_stub, own_server):
    own_server.start()
    server = start_server(RedisStore(StoreSettings(url=own_server.url, timeout_ms=500)))
    stub = open_stub(server)
    record(stub, "u", "i0", "1")
    own_server.stop(kill=True)
    answer = recommend(stub, "u")
    assert answer.degraded_stages == ["state"]
    assert answer.items[0].item_id == "i0"
    history = [watch("i1", 5)]
    answer = stub.RecommendItems(pb.RecommendItemsRequest(user_id="u", history=history))
    assert [item.item_id for item in answer.items][:2] == ["i0", "i2"]
    own_server.start()
    wait_until(lambda: not recommend(stub, "u").degraded_stages)
    assert recommend(stub, "u").items[0].item_id == "i1"


def test_server_starts_without_its_store_and_counts_what_it_missed(
    start_server, open_stub, own_server, recommender
):
    own_server.start()
    settings = StoreSettings(url=own_server.url, timeout_ms=500)
    record(open_stub(start_server(RedisStore(settings))), "u", "i0", "1")
    own_server.stop()
    stream = io.StringIO()
    store, log_key = open_store(settings, new_logger(stream))
    assert "does not answer" in json.loads(stream.getvalue())["error"]
    assert len(log_key) == 32
    recommender.counts.clear()
    server = start_server(store)
    assert recommend(open_stub(server), "u").degraded_stages == ["state"]
    own_server.start()
    wait_until(lambda: recommender.counts["i0"] == 500)


def test_silent_store_holds_no_answer(start_server, open_stub, silent_port):
    settings = StoreSettings(url=f"redis://127.0.0.1:{silent_port}", timeout_ms=40)
    stub = open_stub(start_server(RedisStore(settings.model_copy(update={"write_timeout_ms": 40}))))
    recommend(stub, "u")
    started = time.perf_counter()
    for _ in range(20):
        assert recommend(stub, "u").degraded_stages == ["state"]
    assert time.perf_counter() - started < 10 * 0.04 + 0.5


def test_failed_server_is_left_alone_for_a_moment(silent_port):
    now = [0.0]
    settings = StoreSettings(url=f"redis://127.0.0.1:{silent_port}", timeout_ms=20)
    connection = RedisConnection(settings, clock=lambda: now[0])

    def ask():
        with pytest.raises(StateError) as caught, connection.reader() as client:
            client.ping()
        return str(caught.value)

    assert "does not answer" in ask()
    now[0] = PAUSE_SECONDS * 0.9
    assert "a moment ago" in ask()
    now[0] = PAUSE_SECONDS * 1.1
    assert "does not answer" in ask()
    connection.close()


def test_record_without_enough_replicas_is_not_acknowledged(settings):
    store = RedisStore(settings.model_copy(update={"min_replicas": 1, "write_timeout_ms": 200}))
    from tests.contracts.test_store_contract import event
    from tests.contracts.test_store_contract import record as record_in

    with pytest.raises(UnsureStateError, match="0 of 1 replicas"):
        record_in(store, "u", event("a", "1", 10))
    store.close()


def test_what_may_be_lost_is_told_at_the_start(settings, redis_server):
    def told():
        stream = io.StringIO()
        store, log_key = open_store(settings, new_logger(stream))
        store.close()
        return log_key, stream.getvalue()

    first_key, nothing = told()
    assert nothing == ""
    with redis_server.client() as client:
        client.config_set("appendfsync", "everysec")
        second_key, warning = told()
        assert "appendfsync is everysec" in warning
        client.config_set("appendonly", "no")
        assert "all events since its last snapshot" in told()[1]
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "always")
    assert first_key == second_key


def test_password_comes_from_its_file(own_server, tmp_path):
    own_server.start()
    with own_server.client() as client:
        client.config_set("requirepass", "secret")
    path = tmp_path / "redis.password"
    path.write_text("secret\n")
    store = RedisStore(StoreSettings(url=own_server.url, password_file=path, timeout_ms=1000))
    assert store.get("u").user_id == "u"
    store.close()
    store = RedisStore(StoreSettings(url=own_server.url, timeout_ms=1000))
    with pytest.raises(StateError, match="Authentication required"):
        store.get("u")
    store.close()
    with pytest.raises(ConfigError, match="holds a password"):
        RedisStore(StoreSettings(url=own_server.url, password_file=tmp_path / "none"))


def test_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="password_file") as caught:
        StoreSettings(url="redis://user:topsecret@127.0.0.1")
    assert "topsecret" not in str(caught.value.errors()[0]["msg"])


def test_many_records_of_one_user_at_once_are_all_kept(settings):
    from tests.contracts.test_store_contract import event
    from tests.contracts.test_store_contract import record as record_in

    stores = [RedisStore(settings) for _ in range(4)]

    def write(number):
        for place in range(5):
            record_in(stores[number], "u", event(f"i{number}", f"{number}-{place}", 10 + place))

    writers = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(stores[0].get("u").events) == stores[0].counts()["events"] == 20
    for store in stores:
        store.close()
