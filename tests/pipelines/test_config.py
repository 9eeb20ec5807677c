import pytest

from pipelines.config import load_settings
from recsys.errors import ConfigError

MINIMAL = '[data]\nsource = "synthetic"\n[split]\nkind = "leave_one_out"\n'


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
