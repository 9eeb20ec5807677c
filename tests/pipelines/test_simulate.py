"""Simulations of tiny bundles: nothing between equals, the truth beside what logs and tests say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from pipelines import simulate
from pipelines.cli import app
from pipelines.simulate_arms import ArmLog, Side, common_world, learn, learning_settings
from pipelines.simulate_log import Judged, estimates
from recsys.bundle import Bundle
from recsys.data.sources import synthetic
from recsys.data.sources.table import read as read_table
from recsys.data.sources.world import DAY_US
from recsys.errors import ArtefactError, ComparisonError, ConfigError
from recsys.settings import DataSettings, SimulationSettings
from recsys.simulation.arrivals import Span, draw_arrivals

SHORT = SimulationSettings(days=2, users=60, bootstrap_rounds=100)
LONGER = SimulationSettings(days=3, users=150, bootstrap_rounds=100)
EXPLORING = ("serving.exploration.policy=plackett_luce", "serving.exploration.temperature=10")
SHARPER = (EXPLORING[0], "serving.exploration.temperature=6")


def with_state(bundle: Path, tiny_run: Path) -> Path:
    """Put the users' states beside a bundle."""
    run = bundle.parent / f"{bundle.name}-run"
    run.mkdir()
    (run / "bundle").symlink_to(bundle)
    (run / "state").symlink_to(tiny_run / "state")
    return run


@pytest.fixture(scope="module")
def exploring(tiny_bundle, tiny_run):
    return with_state(tiny_bundle(*EXPLORING), tiny_run)


@pytest.fixture(scope="module")
def sharper(tiny_bundle, tiny_run):
    return with_state(tiny_bundle(*SHARPER), tiny_run)


@pytest.fixture(scope="module")
def unequal(exploring, sharper, tmp_path_factory):
    out = tmp_path_factory.mktemp("unequal")
    return simulate.main([exploring, sharper], out, LONGER), out


def test_nothing_is_between_a_bundle_and_itself(tiny_run, tmp_path):
    figures = simulate.main([tiny_run, tiny_run / "bundle"], tmp_path, SHORT)
    assert figures["truth"]["difference"] == 0
    assert figures["truth"]["watched"]["A"] == figures["truth"]["watched"]["B"] > 0
    assert figures["test"]["holds_truth"]
    assert "finds no difference" in figures["verdict"]
    assert figures["off_policy"] == {}
    assert [look["days"] for look in figures["looks"]] == [1, 2]


def test_same_seed_gives_the_same_figures(unequal, exploring, sharper, tmp_path):
    figures, out = unequal
    simulate.main([exploring, sharper], tmp_path, LONGER)
    for name in ("simulation.json", "simulation.html"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    assert json.loads((out / "simulation.json").read_text()) == figures


def test_what_is_watched_lies_about_what_the_truth_expects(unequal):
    truth = unequal[0]["truth"]
    for side in "AB":
        assert truth["watched"][side] == pytest.approx(truth["expected"][side], rel=0.25)
    by_day = unequal[0]["by_day"]
    assert np.mean([day["A"] for day in by_day]) == pytest.approx(truth["expected"]["A"])
    assert unequal[0]["test"]["true"] == pytest.approx(truth["difference"])


def test_catalogue_only_fills_up(unequal):
    for side in "AB":
        shares = unequal[0]["catalogue"]["watched_share"][side]
        assert 0 < shares[0] < shares[-1] <= 1
        assert 0 < unequal[0]["catalogue"]["gini"][side][-1] < 1


def test_log_of_drawn_orders_says_what_the_other_arm_is_worth(unequal):
    found = unequal[0]["off_policy"]
    for side, other in ("AB", "BA"):
        place = found[side]["first_place"]
        assert place["rows"] == unequal[0]["sides"][other]["pages"]
        value, low, high = place["estimates"]["ips"]
        assert low < place["true"] < high
    # By the same histories: what is true of B at A's pages is not what A was worth.
    assert found["B"]["page"]["true"] > found["A"]["page"]["true"]


def test_greedy_arm_has_no_log_to_estimate_from(exploring, tiny_run, tmp_path):
    figures = simulate.main([exploring, tiny_run], tmp_path, SHORT)
    assert list(figures["off_policy"]) == ["B"]


def test_estimates_of_the_policy_that_was_logged_are_what_was_watched():
    rng = np.random.default_rng(0)
    seconds, logging = rng.gamma(1, 5, (400, 3)), rng.uniform(0.1, 1, (400, 3))
    judged = Judged(rng.integers(90, size=400), seconds, logging, logging, 2 * seconds)
    found = estimates([judged], rounds=100, seed=0)
    assert found["first_place"]["estimates"]["ips"][0] == pytest.approx(seconds[:, 0].mean())
    assert found["page"]["estimates"]["reward_interaction"][0] == pytest.approx(
        seconds.sum(axis=1).mean()
    )
    assert found["page"]["true"] == pytest.approx(2 * seconds.sum(axis=1).mean())


def test_estimates_without_overlap_are_refused():
    few = np.full((400, 3), 0.01)
    target = np.zeros((400, 3))
    target[:3] = 1
    judged = Judged(np.arange(400), np.ones((400, 3)), few, target, np.ones((400, 3)))
    found = estimates([judged], rounds=100, seed=0)
    assert found["first_place"]["estimates"] == {}
    assert "overlap" in found["first_place"]["refused"]


def test_worlds_must_be_one(tiny_run, tmp_path):
    side = Side.open("A", tiny_run)
    other_seed = replace(side, settings=side.settings.model_copy(update={"seed": 4}))
    with pytest.raises(ComparisonError, match="one world"):
        common_world([side, other_seed])
    elsewhere = DataSettings(source="table", path=".")
    foreign = replace(side, settings=side.settings.model_copy(update={"data": elsewhere}))
    with pytest.raises(ComparisonError, match="synthetic source"):
        common_world([foreign, foreign])
    with pytest.raises(ComparisonError, match="at most the 200"):
        simulate.main([tiny_run, tiny_run], tmp_path, SHORT.model_copy(update={"users": 201}))
    with pytest.raises(ArtefactError, match="expected a bundle"):
        Side.open("A", tmp_path)


@pytest.fixture(scope="module")
def lived_log(tiny_run, tmp_path_factory):
    """The log of one arm after a day, and what it was made of."""
    side = Side.open("A", tiny_run)
    world = common_world([side, side])
    start = Bundle.load(side.bundle).data_until
    arrivals = draw_arrivals(world, np.arange(60), Span(start, 1), sessions_per_day=1.0, seed=0)
    log = ArmLog(tmp_path_factory.mktemp("log"), side.settings, world, arrivals)
    states = simulate.users_states(tiny_run / "state", world, 60)
    arm = simulate._ArmRun(side, world, arrivals, states, seed=0, log=log)
    return side, log, arm.live(0), start


def test_log_of_an_arm_is_the_worlds_until_it_begins_then_its_own(lived_log):
    side, log, day, start = lived_log
    settings = learning_settings(side, log.directory, start + DAY_US)
    table = next(iter([*read_table(settings.data, 0).events()]))
    tables = [*read_table(settings.data, 0).events()]
    events = [each for each in tables if len(each)]
    policies = {value for each in events for value in each["policy"].unique().to_pylist()}
    assert policies == {"topic_mixture", "simulated", None}
    times = np.concatenate([each["event_time"].cast("int64").to_numpy() for each in events])
    world_log = [*synthetic.read(side.settings.data, side.settings.seed).events()]
    before = sum(
        int((each["event_time"].cast("int64").to_numpy() < start).sum()) for each in world_log
    )
    assert (times < start).sum() == before
    simulated = sum(
        int(pc.sum(pc.equal(each["policy"], "simulated")).as_py() or 0) for each in events
    )
    assert simulated == (day.pages.items >= 0).sum()
    ids = [value for each in events for value in each["event_id"].to_pylist()]
    assert len(set(ids)) == len(ids)
    assert table.column_names


def test_arm_goes_on_with_its_own_net(lived_log, tiny_run):
    side, log, _, start = lived_log
    settings = learning_settings(side, log.directory, start + DAY_US)
    assert settings.candidates.warm_start == str(tiny_run)
    assert settings.split.test_from == "2026-01-09T00:00:00"
    assert settings.split.validation_from == "2026-01-08T00:00:00"
    alone = learning_settings(replace(side, run=log.directory), log.directory, start + DAY_US)
    assert alone.candidates.warm_start is None


def test_arm_learns_from_its_own_log(lived_log, tmp_path):
    side, log, _, start = lived_log
    candidates = side.settings.candidates
    training = candidates.training.model_copy(update={"max_epochs": 1, "batch_size": 128})
    light = side.settings.model_copy(
        update={
            "candidates": candidates.model_copy(update={"training": training}),
            "ranking": side.settings.ranking.model_copy(update={"enabled": False}),
            "exploration": side.settings.exploration.model_copy(update={"enabled": False}),
        }
    )
    learned = learn(replace(side, settings=light), log, tmp_path / "run", start + DAY_US, print)
    bundle = Bundle.load(learned.bundle)
    assert bundle.data_until == start + DAY_US
    assert learned.run == tmp_path / "run"
    assert bundle.bundle_id != Bundle.load(side.bundle).bundle_id


def test_command_prints_what_is_true_and_what_a_test_sees(tiny_run, tmp_path):
    arguments = ["simulate", str(tiny_run), str(tiny_run), "--days", "1", "--users", "50"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "In truth B changes" in result.output
    assert "holds the truth" in result.output.replace("\n", " ")
    assert (tmp_path / "simulation.html").stat().st_size > 5_000
    wrong = CliRunner().invoke(app, [*arguments, "--retrain", "often"])
    assert isinstance(wrong.exception, ConfigError)
