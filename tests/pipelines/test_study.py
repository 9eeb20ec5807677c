"""The driver of studies, on functions with a known best."""

import multiprocessing
import signal
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from pipelines.search_space import new_search_space
from pipelines.study import MAX_KILLS, Plan, Worker, begin, open_study
from recsys.core.interruption import Interruption
from recsys.errors import ArtefactError, TrainingError, TrainingInterrupted
from tests.pipelines.small_study import NUM_EPOCHS, Bowl, drawn, ignore, new_settings, run

TWO_ENDS = {"candidates.dropout": {"choices": [0.3, 0.9]}}


class Killed(BaseException):
    """Ends a process without a chance to write anything."""


def killed_in(number_of_call, train=None):
    """Return a training that is killed in one of its calls, after its second epoch."""
    calls = []

    def trains(settings, directory, after_epoch):
        calls.append(directory)

        def after(epoch):
            after_epoch(epoch)
            if len(calls) == number_of_call and epoch.epoch == 1:
                raise Killed

        return (train or Bowl())(settings, directory, after)

    return trains


def test_study_finds_a_known_best(tmp_path):
    trials = run(tmp_path / "tune", new_settings(trials=16))
    best = max(trials, key=lambda trial: trial.value or 0)
    assert best.params["candidates.dropout"] == pytest.approx(0.3, abs=0.1)
    assert best.value == pytest.approx(1, abs=0.02)


def test_study_minimises_a_loss(tmp_path):
    space = {"ranking.dropout": {"low": 0.0, "high": 0.9}}
    settings = new_settings(space, stage="ranking", trials=12)
    run(tmp_path / "tune", settings, Bowl("ranking"))
    with open_study(Plan(settings, tmp_path / "tune", "log", Bowl("ranking"))) as study:
        best = study.best_trial
    assert best.params["ranking.dropout"] == pytest.approx(0.3, abs=0.1)
    assert best.value == min(best.intermediate_values.values())


def test_first_trial_is_the_configuration_itself(tmp_path):
    first, second = run(tmp_path / "tune", new_settings(trials=2))
    assert first.params == {"candidates.dropout": 0, "candidates.training.learning_rate": 1e-3}
    assert "is_baseline" in first.user_attrs
    assert "is_baseline" not in second.user_attrs


def test_configuration_outside_of_the_space_is_no_trial(tmp_path):
    space = {"candidates.dropout": {"low": 0.1, "high": 0.6}}
    (first,) = run(tmp_path / "tune", new_settings(space, trials=1))
    assert first.params["candidates.dropout"] >= 0.1


def test_study_of_another_seed_draws_others(tmp_path):
    settings = new_settings(trials=2)
    ours = run(tmp_path / "ours", settings)
    theirs = run(tmp_path / "theirs", settings.model_copy(update={"seed": 6}))
    assert ours[1].params != theirs[1].params


def test_study_goes_on_to_the_wanted_number(tmp_path):
    run(tmp_path / "tune", new_settings(trials=2))
    trials = run(tmp_path / "tune", new_settings(trials=4))
    assert drawn(trials) == drawn(run(tmp_path / "unbroken", new_settings(trials=4)))
    assert len(run(tmp_path / "tune", new_settings(trials=3))) == 4


def test_killed_study_ends_as_an_unbroken_one(tmp_path):
    settings = new_settings(trials=13)
    # Both within the first five trials, none of which is pruned before its second epoch is over.
    with pytest.raises(Killed):
        run(tmp_path / "tune", settings, killed_in(4))
    with pytest.raises(Killed):
        run(tmp_path / "tune", settings, killed_in(2))
    trials = run(tmp_path / "tune", settings)
    assert drawn(trials) == drawn(run(tmp_path / "unbroken", settings))
    with open_study(Plan(settings, tmp_path / "tune", "log", Bowl())) as study:
        assert study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)) == []


def test_killed_trial_goes_on_in_its_directory(tmp_path):
    settings = new_settings(trials=1)
    with pytest.raises(Killed):
        run(tmp_path / "tune", settings, killed_in(1))
    (trial,) = run(tmp_path / "tune", settings)
    assert (trial.number, trial.user_attrs["is_baseline"]) == (1, True)
    assert [path.name for path in (tmp_path / "tune" / "trials").glob("trial*")] == ["trial-0000"]
    assert (tmp_path / "tune" / "trials" / "trial-0000" / "begun").read_text() == "xx"


def test_trial_that_kills_is_given_up(tmp_path):
    settings = new_settings(trials=2)
    for _ in range(MAX_KILLS):
        with pytest.raises(Killed):
            run(tmp_path / "tune", settings, killed_in(1))
    given_up, other = run(tmp_path / "tune", settings)
    assert "killed 3 times" in given_up.user_attrs["problem"]
    assert other.state == TrialState.COMPLETE


def test_signal_ends_the_study_and_does_not_count_as_a_kill(tmp_path):
    settings = new_settings(trials=3)
    for _ in range(MAX_KILLS + 1):
        with pytest.raises(TrainingInterrupted, match="SIGTERM came: the study stopped"):
            run(tmp_path / "tune", settings, killed_by_signal)
    before = signal.getsignal(signal.SIGTERM)
    trials = run(tmp_path / "tune", settings)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert signal.getsignal(signal.SIGTERM) is before


def killed_by_signal(settings, directory, after_epoch):
    signal.raise_signal(signal.SIGTERM)
    return Bowl()(settings, directory, after_epoch)


def test_bad_trials_are_pruned_once_there_is_a_median(tmp_path):
    trials = run(tmp_path / "tune", new_settings(TWO_ENDS, trials=16))
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert min(trial.number for trial in pruned) >= 5
    for trial in pruned:
        assert trial.params["candidates.dropout"] == "0.9"
        assert len(trial.intermediate_values) == 2 < NUM_EPOCHS


def test_no_trial_leaves_checkpoints(tmp_path):
    run(tmp_path / "tune", new_settings(TWO_ENDS, trials=8), Bowl(fails_above=0.5))
    assert len(list((tmp_path / "tune" / "trials").glob("trial-*"))) == 8
    assert list((tmp_path / "tune").rglob("unfinished")) == []


def test_failed_trial_says_why_and_the_study_goes_on(tmp_path):
    trials = run(tmp_path / "tune", new_settings(trials=8), Bowl(fails_above=0.4))
    for trial in trials:
        has_failed = trial.params["candidates.dropout"] > 0.4
        assert trial.user_attrs.get("problem") == ("the loss is nan" if has_failed else None)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_study_ends_where_nothing_works(tmp_path):
    with pytest.raises(TrainingError, match="first 5 trials failed.*the loss is nan"):
        run(tmp_path / "tune", new_settings(trials=50), Bowl(fails_above=-1))


def test_no_trial_is_begun_after_the_time(tmp_path):
    assert len(run(tmp_path / "tune", new_settings(trials=9, max_seconds=1e-9))) == 0


@pytest.mark.parametrize("change", [{"identity": "other log"}, {"settings": "space"}])
def test_study_of_something_else_is_refused(tmp_path, change):
    run(tmp_path / "tune", new_settings(trials=1))
    settings = new_settings(TWO_ENDS if "settings" in change else None, trials=2)
    with pytest.raises(ArtefactError, match="was begun with another"):
        run(tmp_path / "tune", settings, identity=change.get("identity", "log"))


def test_two_processes_share_the_trials_and_one_killed_is_made_up_for(tmp_path):
    settings = new_settings(trials=5, processes=2)
    with pytest.raises(TrainingError, match="status -9"):
        run(tmp_path / "tune", settings, Bowl(kills_above=-1))
    trials = run(tmp_path / "tune", settings, Bowl(kills_above=0.7))
    assert len(trials) == 5
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    assert len({str(params) for params in drawn(trials)}) == 5
    with open_study(Plan(settings, tmp_path / "tune", "log", Bowl())) as study:
        assert len(study.get_trials(states=(TrialState.FAIL,))) == 2


def test_trials_under_way_at_once_differ(tmp_path):
    plan = Plan(new_settings(trials=4), tmp_path / "tune", "log", None)
    remaining = multiprocessing.Value("i", 4)

    def begins_another(settings, directory, after_epoch):
        work()
        return Bowl()(settings, directory, after_epoch)

    def work():
        with open_study(plan) as study:
            beside = replace(plan, train=begins_another)
            Worker(study, beside, remaining, Interruption(), ignore).run()

    with open_study(plan) as study:
        begin(study, new_search_space(plan.settings), plan)
    work()
    with open_study(plan) as study:
        assert len({str(params) for params in drawn(study.trials)}) == 4
