"""Trainings killed at a step, asked to end, or robbed of a checkpoint go on to the bit."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from recsys.core.backends import to_numpy
from recsys.core.checkpoint import Checkpoints
from recsys.core.training import CURVES
from recsys.errors import TrainingError, TrainingInterrupted
from tests.core.small_training import make_batches, new_net, run, weights_of


class Killed(Exception):
    """Stands for a killed process."""


def kill():
    raise Killed


def struck(strike, at):
    """Return batches that strike before the one of number `at`, counted through all epochs."""
    taken = iter(range(1000))

    def batches(epoch):
        for batch in make_batches(epoch):
            if next(taken) == at:
                strike()
            yield batch

    return batches


def last_state(directory):
    """Return all arrays of the newest checkpoint, and what it says of the course."""
    checkpoint = Checkpoints(directory / "unfinished", 2).load()
    arrays = {name: list(values) for name, values in checkpoint.groups.items()}
    epochs = [(each["figures"], each["metrics"]) for each in checkpoint.notes["epochs"]]
    return arrays, (epochs, checkpoint.notes["best_epoch"], checkpoint.notes["level"])


def assert_same_end(directory, expected):
    arrays, course = last_state(directory)
    expected_arrays, expected_course = last_state(expected)
    assert arrays.keys() == {"model", "optimizer", "best"} == expected_arrays.keys()
    for name, values in arrays.items():
        for value, wanted in zip(values, expected_arrays[name], strict=True):
            np.testing.assert_array_equal(value, wanted)
    assert course == expected_course


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    run(new_net(), directory)
    return directory


def files(directory):
    return sorted(path.name for path in (directory / "unfinished").iterdir())


@pytest.mark.parametrize(("killed_at", "every"), [(0, 1), (3, 1), (5, 2), (6, 1), (11, 4), (17, 5)])
def test_killed_training_ends_as_if_it_was_not(tmp_path, whole, killed_at, every):
    with pytest.raises(Killed):
        run(new_net(), tmp_path, batches=struck(kill, killed_at), checkpoint_steps=every)
    run(new_net(), tmp_path, checkpoint_steps=every)
    assert_same_end(tmp_path, whole)


def test_checkpoints_come_every_so_many_steps(tmp_path):
    # The sixth step ends an epoch, which is always saved.
    for at, expected in ((4, 4), (5, 4), (7, 6), (8, 8), (11, 8)):
        directory = tmp_path / str(at)
        with pytest.raises(Killed):
            run(new_net(), directory, batches=struck(kill, at), checkpoint_steps=4)
        assert last_state(directory)[1][2]["steps"] == expected


def test_checkpoints_come_after_so_many_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("recsys.core.training.LOOK_STEPS", 1)
    with pytest.raises(Killed):
        run(new_net(), tmp_path, batches=struck(kill, 4), checkpoint_seconds=1e-9)
    found = Checkpoints(tmp_path / "unfinished", 2).load()
    assert found.notes["sums"]["batches"] == 4


def test_random_state_of_dropout_moves_and_is_kept(tmp_path):
    net = new_net()
    before = to_numpy(net.dropout.seed_generator.state.value)
    with pytest.raises(Killed):
        run(net, tmp_path, batches=struck(kill, 2), checkpoint_steps=2)
    resumed = new_net()
    with pytest.raises(Killed):
        run(resumed, tmp_path, batches=struck(kill, 2))
    after = to_numpy(resumed.dropout.seed_generator.state.value)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, to_numpy(net.dropout.seed_generator.state.value))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [0, 4, 5])
def test_asked_training_finishes_its_step_and_goes_on_later(tmp_path, whole, number, at):
    # A job of the background has it ignored from its start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    batches = struck(lambda: os.kill(os.getpid(), number), at)
    message = f"{number.name} came.*epoch 1 after {at + 1} steps"
    with pytest.raises(TrainingInterrupted, match=message):
        run(new_net(), tmp_path, batches=batches)
    run(new_net(), tmp_path)
    assert_same_end(tmp_path, whole)


def test_training_asked_while_it_validates_ends_after_the_epoch(tmp_path, whole):
    def validate():
        os.kill(os.getpid(), signal.SIGTERM)
        return {"error": 1.0}

    with pytest.raises(TrainingInterrupted, match="epoch 2 after 0 steps"):
        run(new_net(), tmp_path, validate=validate)
    assert last_state(tmp_path)[1][0][0][0] == last_state(whole)[1][0][0][0]


def test_signals_do_again_what_they_did_before(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Killed):
        run(new_net(), tmp_path, batches=struck(kill, 1))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        batches = struck(lambda: os.kill(os.getpid(), signal.SIGINT), 2)
        assert run(new_net(), tmp_path, batches=batches).stop == "max_epochs"
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_beside_the_main_thread_installs_nothing(tmp_path, whole):
    with ThreadPoolExecutor(1) as executor:
        executor.submit(run, new_net(), tmp_path).result()
    assert_same_end(tmp_path, whole)


def test_torn_checkpoint_gives_way_to_the_one_before(tmp_path, whole):
    with pytest.raises(Killed):
        run(new_net(), tmp_path, batches=struck(kill, 9), checkpoint_steps=2)
    newest = tmp_path / "unfinished" / files(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(RuntimeWarning, match=f"{newest.name}.*not a readable checkpoint"):
        run(new_net(), tmp_path, checkpoint_steps=2)
    assert_same_end(tmp_path, whole)


def test_torn_checkpoints_alone_are_refused(tmp_path):
    run(new_net(), tmp_path, checkpoints_kept=1)
    (only,) = files(tmp_path)
    (tmp_path / "unfinished" / only).write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=f"{only}: not a.*delete it to train from the start"):
        run(new_net(), tmp_path)


def test_finished_training_writes_its_curves_again(tmp_path):
    # A kill between the last checkpoint and the curves leaves the curves torn.
    run(new_net(), tmp_path)
    written = (tmp_path / CURVES).read_text()
    (tmp_path / CURVES).write_text(written[:50])
    net = new_net()
    run(net, tmp_path)
    assert (tmp_path / CURVES).read_text() == written
    assert np.isfinite(weights_of(net)).all()
