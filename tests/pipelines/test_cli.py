import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from recsys.errors import RecsysError
from recsys.state_files import read_states

runner = CliRunner()


def invoke(*arguments):
    done = runner.invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def last_json(done):
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bundle(tiny_run):
    return tiny_run / "bundle"


@pytest.fixture(scope="module")
def user(tiny_run):
    return max(read_states(tiny_run / "state"), key=lambda state: len(state.events)).user_id


def test_recommend_answers_one_user(bundle, user):
    done = invoke("recommend", "--bundle", bundle, "--user", user, "--items", 3, "--json")
    answer = last_json(done)
    assert [item["position"] for item in answer["items"]] == [0, 1, 2]
    assert answer["failures"] == {}
    assert "explanation" not in answer["items"][0]


def test_recommend_explains_when_asked(bundle, user):
    done = invoke("recommend", "--bundle", bundle, "--user", user, "--explain", "--json")
    explanation = last_json(done)["items"][0]["explanation"]
    assert explanation["candidate_rank"] >= 0
    assert "duration_seconds" in explanation["features"]


def test_recommend_answers_a_user_whom_nobody_has_seen(bundle):
    answer = last_json(invoke("recommend", "--bundle", bundle, "--user", "stranger", "--json"))
    assert len(answer["items"]) == 20
    assert answer["degraded_stages"] == []


def test_recommend_writes_all_users_as_alone(bundle, user, tmp_path):
    users = tmp_path / "users.txt"
    users.write_text(f"{user}\nstranger\n")
    out = tmp_path / "answers.parquet"
    done = invoke("recommend", "--bundle", bundle, "--users", users, "--out", out, "--json")
    assert last_json(done)["users"] == 2
    rows = pq.read_table(out).to_pylist()
    alone = last_json(invoke("recommend", "--bundle", bundle, "--user", user, "--json"))
    assert [row["item_id"] for row in rows if row["user_id"] == user] == [
        item["item_id"] for item in alone["items"]
    ]


def test_recommend_without_a_user_says_what_it_expects(bundle):
    with pytest.raises(RecsysError, match="--user"):
        invoke("recommend", "--bundle", bundle)


def test_similar_and_explain_agree_with_the_catalogue(bundle, user):
    items = last_json(invoke("recommend", "--bundle", bundle, "--user", user, "--json"))["items"]
    item = items[2]["item_id"]
    similar = last_json(invoke("similar", "--bundle", bundle, "--item", item, "--json"))
    assert item not in [found["item_id"] for found in similar["similar"]]
    explained = last_json(
        invoke("explain", "--bundle", bundle, "--user", user, "--item", item, "--json")
    )
    assert (explained["found"], explained["position"]) == (True, 2)


def test_evaluate_prints_the_stored_figures(tiny_run):
    config = __file__.replace("pipelines/test_cli.py", "tiny.toml")
    figures = last_json(invoke("evaluate", "--config", config, "--out", tiny_run, "--json"))
    assert {"hr@10", "hr@50", "ndcg@10"} <= set(figures["candidates"])
    assert {"mae_seconds", "xauc", "gauc", "seconds_ratio"} <= set(figures["ranking"])
    assert {"popularity", "covisitation", "als", "constant", "lightgbm"} <= set(
        figures["baselines"]
    )
    assert (tiny_run / "report.html").read_text().startswith("<!")


def test_init_writes_a_config_that_runs_through_prepare(tiny_run, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    events = pq.read_table(tiny_run / "prepared" / "shards" / "00000" / "events.parquet")
    pq.write_table(events, log / "events.parquet")
    config = tmp_path / "mine.toml"
    invoke("init", log, "--out", config)
    invoke("prepare", "--config", config, "--out", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "prepared" / "manifest.json").read_text())
    assert manifest["statistics"]["events"] == len(events)


def test_validate_counts_rejects_and_exits_with_1(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(
        "user_id,item_id,event_time,watch_ms\n"
        "a,i,2026-01-01T00:00:00Z,5\n"
        "a,i,2026-01-01T00:00:00Z,5\n"
        "b,i,2026-01-01T00:00:00Z,-1\n"
    )
    done = invoke("data", "validate", path, "--json")
    assert done.exit_code == 1
    summary = last_json(done)
    assert summary["rejected"] == {"events": 2}
    assert invoke("data", "describe", path, "--json").exit_code == 0


def test_error_is_one_line_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", "--config", str(tmp_path / "absent.toml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("recsys: ")
    assert "Traceback" not in done.stderr


def test_serve_refuses_the_network_unless_told(bundle):
    with pytest.raises(RecsysError, match="--open-to-network"):
        invoke("serve", "--bundle", bundle, "--host", "0.0.0.0")
