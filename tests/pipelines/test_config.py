from pathlib import Path

import pytest

from pipelines.config import load_settings, override_settings, to_override, to_toml
from pipelines.search_space import new_search_space
from recsys.errors import ConfigError

MINIMAL = '[data]\nsource = "synthetic"\n[split]\nkind = "leave_one_out"\n'


CONFIGS = sorted((Path(__file__).parents[2] / "pipelines" / "configs").glob("*.toml"))


def write(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text('name = "world"\n' + text)
    return path


def test_override_replaces_nested_value(tmp_path):
    overrides = [
        "candidates.windows=[1, 3]",
        "data.path=some/where",
        "candidates.training.max_epochs=2",
    ]
    settings = load_settings(write(tmp_path, MINIMAL), overrides)
    assert settings.candidates.windows == (1, 3)
    assert settings.data.path == "some/where"
    assert settings.candidates.training.max_epochs == 2


@pytest.mark.parametrize("cut", ["2026-01-08", "2026-01-08T12:00:00"])
def test_a_time_given_on_the_command_line_stays_text(tmp_path, cut):
    settings = load_settings(write(tmp_path, MINIMAL), [f"split.test_from={cut}"])
    assert settings.split.test_from == cut


def test_unknown_key_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="candidates.embeding_width.*'embedding_width'"):
        load_settings(write(tmp_path, MINIMAL + "[candidates]\nembeding_width = 3\n"))


def test_wrong_value_is_named_with_what_came(tmp_path):
    with pytest.raises(ConfigError, match="candidates.dropout.*got 2"):
        load_settings(write(tmp_path, MINIMAL + "[candidates]\ndropout = 2\n"))


@pytest.mark.parametrize("override", ["novalue", "=3", "name.deeper=1"])
def test_malformed_override_is_refused(tmp_path, override):
    with pytest.raises(ConfigError, match="--set"):
        load_settings(write(tmp_path, MINIMAL), [override])


def test_missing_file_says_where_others_are(tmp_path):
    with pytest.raises(ConfigError, match="pipelines/configs"):
        load_settings(tmp_path / "absent.toml")


def test_broken_toml_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="broken.toml"):
        load_settings(path)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_settings_written_are_read_as_they_were(config, tmp_path):
    settings = load_settings(config)
    copy = tmp_path / "copy.toml"
    copy.write_text(to_toml(settings))
    assert load_settings(copy) == settings


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_space_of_each_config_is_one_that_can_be_searched(config):
    settings = load_settings(config)
    if settings.tune.space:
        assert new_search_space(settings).drawn_of_settings() is not None


def test_override_written_is_read_as_it_was(tmp_path):
    path = write(tmp_path, MINIMAL)
    values = {
        "candidates.windows": [1, 3],
        "candidates.negatives": {"uniform": 3},
        "data.path": 'a "b" ü',
        "candidates.age": True,
        "candidates.training.learning_rate": 1e-5,
    }
    overrides = [to_override(name, value) for name, value in values.items()]
    settings = load_settings(path, overrides)
    assert override_settings(load_settings(path), overrides) == settings
    assert settings.candidates.windows == (1, 3)
    assert settings.candidates.negatives == {"uniform": 3}
    assert settings.data.path == 'a "b" ü'
    assert settings.candidates.age
    assert settings.candidates.training.learning_rate == 1e-5


def test_wrong_key_of_a_searched_setting_names_the_nearest(tmp_path):
    text = MINIMAL + '[tune.space]\n"candidates.dropout" = { low = 0, hihg = 1 }\n'
    with pytest.raises(ConfigError, match="tune.space.candidates.dropout.hihg.*'high'"):
        load_settings(write(tmp_path, text))


def test_settings_that_do_not_go_together_are_told_without_all_the_others(tmp_path):
    wrong = MINIMAL + "[ranking]\nenabled = false\n[exploration]\nenabled = true\n"
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, wrong))
    assert "do not go together: exploration needs the ranking net" in str(caught.value)
    assert "synthetic" not in str(caught.value)


def test_table_where_a_value_belongs_is_named_with_what_came(tmp_path):
    with pytest.raises(ConfigError, match=r"seed: .*valid integer; got \{'a': 1\}"):
        load_settings(write(tmp_path, MINIMAL.replace("[data]", "seed = { a = 1 }\n[data]", 1)))
