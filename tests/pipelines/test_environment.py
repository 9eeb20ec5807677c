"""How a command ends."""

import pytest

from pipelines.environment import errors_in_a_line
from recsys.errors import DataError, TrainingInterrupted


def test_an_error_of_ours_is_one_line_and_status_1(capsys):
    with pytest.raises(SystemExit) as ended, errors_in_a_line():
        raise DataError("x.csv: expected a column user_id")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "recsys: x.csv: expected a column user_id\n"


def test_an_interrupted_training_is_no_error(capsys):
    with errors_in_a_line():
        raise TrainingInterrupted("SIGINT came: kept in runs/a")
    line = "recsys: SIGINT came: kept in runs/a; the same command again goes on\n"
    assert capsys.readouterr().err == line


def test_what_we_do_not_know_is_not_swallowed():
    with pytest.raises(ZeroDivisionError), errors_in_a_line():
        raise ZeroDivisionError
