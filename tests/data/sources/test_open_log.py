import pytest

from recsys.data.sources import open_log
from recsys.errors import ConfigError
from recsys.settings import DataSettings

ON_DISK = ("kuairand", "movielens", "globo", "sequences", "table")


@pytest.mark.parametrize("source", ON_DISK)
def test_source_on_disk_needs_a_path(source):
    with pytest.raises(ConfigError, match="data.path"):
        open_log(DataSettings(source=source), 0)


@pytest.mark.parametrize("source", ON_DISK)
def test_path_that_is_not_there_is_named(source, tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        open_log(DataSettings(source=source, path=str(tmp_path / "nowhere")), 0)


@pytest.mark.parametrize("source", [*ON_DISK, "synthetic"])
def test_unknown_option_is_refused(source, tmp_path):
    settings = DataSettings(source=source, path=str(tmp_path), options={"colour": "red"})
    with pytest.raises(ConfigError, match="data.options.colour"):
        open_log(settings, 0)


def test_nearest_option_is_suggested():
    settings = DataSettings(source="synthetic", options={"user": 3})
    with pytest.raises(ConfigError, match="did you mean 'users'"):
        open_log(settings, 0)


@pytest.mark.parametrize("value", [0, 1.5, True, "many"])
def test_size_of_the_world_is_a_positive_number(value):
    settings = DataSettings(source="synthetic", options={"users": value})
    with pytest.raises(ConfigError, match="data.options.users"):
        open_log(settings, 0)
