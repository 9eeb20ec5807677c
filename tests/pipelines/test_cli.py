import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from recsys.errors import ConfigError, RecsysError
from recsys.signing import read_public_key
from recsys.state_files import read_states
from recsys.verification import verify_bundle
from serving.tokens import read_tokens

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


def test_serve_reads_its_settings_and_names_what_is_wrong(bundle, tmp_path):
    config = tmp_path / "server.toml"
    config.write_text("[limit]\ncalls_per_second = 5\n[tls]\ncertificate_file = 'x'\n")
    with pytest.raises(ConfigError) as caught:
        invoke("serve", "--bundle", bundle, "--config", config)
    assert "did you mean 'limits'" in str(caught.value)
    assert "tls.private_key_file" in str(caught.value)
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        invoke("serve", "--bundle", bundle, "--set", "tokens_file=nowhere.toml")


def test_serve_refuses_a_bundle_that_no_trusted_key_signed(bundle, tmp_path):
    invoke("key", "create", tmp_path / "site.key")
    options = ["--set", f"trusted_keys=['{tmp_path / 'site.pub'}']", "--port", "0"]
    options += ["--bundle", str(bundle), "--store", str(tmp_path / "store")]
    command = [sys.executable, "-m", "pipelines.cli", "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.startswith("serving")) == (1, False)
    assert "expected a signature" in done.stderr


def test_key_and_sign_make_a_bundle_that_is_trusted(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    key = last_json(invoke("key", "create", tmp_path / "site.key", "--json"))
    signed = last_json(invoke("sign", "--bundle", copy, "--key", tmp_path / "site.key", "--json"))
    assert signed["key"] == key["key"]
    trusted = [read_public_key(Path(key["public_file"]))]
    assert verify_bundle(copy, trusted_keys=trusted)["bundle_id"] == signed["bundle_id"]
    assert key["key"] in invoke("sign", "--bundle", copy, "--key", key["private_file"]).stdout


def test_token_is_printed_once_and_let_in(tmp_path):
    path = tmp_path / "tokens.toml"
    arguments = ["--file", path, "--method", "GetBundle", "--method", "AdminService"]
    token = invoke("token", "create", "site", *arguments).stdout.strip()
    made = last_json(
        invoke("token", "create", "b", *arguments, "--expires", "2027-01-01", "--json")
    )
    assert read_tokens(path).find(token).expires is None
    assert read_tokens(path).find(made["token"]).expires == datetime(2027, 1, 1, tzinfo=UTC)
    assert "BlockItems" in read_tokens(path).find(token).methods


@pytest.mark.parametrize("command", ["run", "train-candidates", "train-ranking"])
@pytest.mark.parametrize("is_asked", [True, False])
def test_tensorboard_is_asked_for_in_both_trainings(monkeypatch, tmp_path, command, is_asked):
    given = []
    monkeypatch.setattr("pipelines.run.main", lambda settings, *_, **__: given.append(settings))
    monkeypatch.setattr(
        "pipelines.run.run_one", lambda _, settings, *__, **___: given.append(settings)
    )
    monkeypatch.setattr("pipelines.cli._print_evaluation", lambda *_: None)
    config = Path(__file__).parents[1] / "tiny.toml"
    flag = ["--tensorboard"] if is_asked else []
    done = invoke(command, "--config", config, "--out", tmp_path / "run", *flag)
    (settings,) = given
    for training in (settings.candidates.training, settings.ranking.training):
        assert training.tensorboard_details == is_asked
    assert (f"tensorboard --logdir {tmp_path / 'run'}" in done.stderr) == is_asked
