"""The loop closes: answers served, events recorded, both logged, prepared, and estimated from."""

import json
from collections import defaultdict

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import load_settings
from pipelines.prepare import main as prepare
from recsys.data.prepared import load_prepared
from recsys.off_policy.policies import LoggedRows, Target, estimate_value
from serving.client import impression, watch
from serving.lmdb_store import LmdbStore
from serving.server import RecsysServer, ServerOptions
from serving.settings import AnswerLogSettings, ServerSettings
from serving.v1 import recommender_pb2 as pb
from serving.v1 import recommender_pb2_grpc

NUM_USERS, NUM_REQUESTS, NUM_SHOWN = 25, 6, 3
START, SECOND = 1_800_000_000_000_000, 1_000_000
CONFIG = """
name = "served"
[data]
source = "served"
path = "{path}"
watch = {{ min_ms = 30000 }}
shards = 1
processes = 1
[split]
kind = "time"
test_from = "2027-01-16"
[ranking]
enabled = false
user_categorical = []
"""


@pytest.fixture(scope="module")
def told(tiny_bundle, tmp_path_factory):
    """Folder of both logs, and what the server said of each impression with what came of it."""
    folder = tmp_path_factory.mktemp("served")
    now = [START]
    drawn = ("serving.exploration.policy=plackett_luce", "serving.exploration.temperature=200.0")
    log = AnswerLogSettings(directory=folder / "answers")
    options = ServerOptions(port=0, settings=ServerSettings(answer_log=log))
    server = RecsysServer(LmdbStore(folder / "store"), options, clock=lambda: now[0])
    server.start()
    server.make_ready(tiny_bundle(*drawn))
    rng = np.random.default_rng(1)
    said = {}
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
        for number in range(NUM_USERS * NUM_REQUESTS):
            user_id = f"user-{number % NUM_USERS}"
            now[0] += 100 * SECOND
            page = stub.RecommendItems(pb.RecommendItemsRequest(user_id=user_id), timeout=30)
            now[0] += SECOND
            events = []
            for item in page.items[:NUM_SHOWN]:
                event_id = f"{number}-{item.position}"
                shown = impression(item.item_id, event_id=event_id)
                shown.impression.request_id = page.request_id
                events.append(shown)
                watch_ms = int(rng.choice([0, 20_000, 60_000]))
                events.append(watch(item.item_id, watch_ms, event_id=event_id))
                said[user_id, event_id] = (item.item_id, item.position, item.propensity, watch_ms)
            stub.RecordEvents(pb.RecordEventsRequest(user_id=user_id, events=events), timeout=30)
    server.stop()
    arguments = ["--store", str(folder / "store"), "--out", str(folder / "events"), "--json"]
    done = CliRunner().invoke(app, ["state", "export-events", *arguments])
    assert json.loads(done.stdout.splitlines()[-1])["events"] == len(said)
    return folder, said


@pytest.fixture(scope="module")
def rows(told, tmp_path_factory):
    """The prepared events, each as a dictionary."""
    folder, _ = told
    config = folder / "served.toml"
    config.write_text(CONFIG.format(path=folder))
    out = tmp_path_factory.mktemp("prepared")
    prepare(load_settings(config), out)
    prepared = load_prepared(out)
    (shard,) = prepared.shards
    return shard.events().to_pylist()


def test_prepared_log_is_what_was_served_and_recorded(told, rows):
    _, said = told
    found = {
        (row["user_id"], row["event_id"]): (
            row["item_id"],
            row["position"],
            row["propensity"],
            row["watch_ms"],
        )
        for row in rows
    }
    assert found.keys() == said.keys()
    for key, (item_id, position, propensity, watch_ms) in said.items():
        expected = (item_id, position, pytest.approx(propensity, rel=1e-6), watch_ms)
        assert found[key] == expected
    assert {(row["policy"], row["is_impression"]) for row in rows} == {("plackett_luce", True)}
    assert len({row["request_id"] for row in rows}) == NUM_USERS * NUM_REQUESTS


def test_off_policy_estimate_runs_on_it(told, rows):
    """The logging policy's own value is the mean; of a uniform draw the log of answers says among
    how many candidates it would have been."""
    folder, _ = told
    rewards = np.array([row["watch_ms"] / 1000 for row in rows])
    logging = np.array([row["propensity"] for row in rows], np.float64)
    users = np.unique([row["user_id"] for row in rows], return_inverse=True)[1]
    log = LoggedRows(rewards, logging, users)
    same = estimate_value(log, Target(logging), rounds=50, seed=0)
    assert same.estimates["ips"].value == pytest.approx(rewards.mean())
    answers = pq.read_table(folder / "answers", columns=["request_id", "num_candidates"])
    among = dict(zip(*(column.to_pylist() for column in answers.columns), strict=True))
    uniform = np.array([1 / (among[row["request_id"]] - row["position"]) for row in rows])
    drawn = estimate_value(log, Target(uniform), rounds=50, seed=0)
    weights = uniform / logging
    by_hand = (weights * rewards).sum() / weights.sum()
    assert drawn.estimates["snips"].value == pytest.approx(by_hand)
    assert drawn.overlap.effective_rows > len(rows) / 2


def test_without_request_ids_the_time_tells(told, tmp_path):
    folder, said = told
    table = pq.read_table(folder / "events" / "events.parquet").drop_columns("request_id")
    (tmp_path / "events").mkdir()
    pq.write_table(table, tmp_path / "events" / "events.parquet")
    config = tmp_path / "served.toml"
    answers = f'options = {{ answers = "{folder / "answers"}" }}\n'
    config.write_text(CONFIG.format(path=tmp_path).replace("shards", answers + "shards"))
    out = tmp_path / "prepared"
    out.mkdir()
    prepare(load_settings(config), out)
    (shard,) = load_prepared(out).shards
    places = defaultdict(int)
    for row in shard.events().to_pylist():
        places[row["position"] == said[row["user_id"], row["event_id"]][1]] += 1
    assert places == {True: len(said)}


def test_export_can_be_cut_by_time(told, tmp_path):
    folder, said = told
    arguments = ["state", "export-events", "--store", str(folder / "store"), "--json", "--out"]
    middle = "2027-01-15T12:00:00"
    early, late = (
        CliRunner().invoke(app, [*arguments, str(tmp_path / name), option, middle])
        for name, option in (("early", "--until"), ("late", "--since"))
    )
    numbers = [json.loads(done.stdout.splitlines()[-1])["events"] for done in (early, late)]
    assert sum(numbers) == len(said)
    assert min(numbers) > 0
