"""Read a TOML configuration, with overrides, into `RecsysSettings` or `ServerSettings`; write one
of a run back."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from recsys.errors import ConfigError
from recsys.settings import ComparisonSettings, RecsysSettings
from serving.settings import ServerSettings, StoreSettings

Model = TypeVar("Model", bound=BaseModel)


def load_settings(path: Path, overrides: Sequence[str] = ()) -> RecsysSettings:
    """Read a configuration file and apply `section.key=value` overrides to it.

    Args:
        path: A TOML file.
        overrides: Values are read as TOML, and as plain strings where they are none.

    Raises:
        ConfigError: The file is missing or no TOML, or a key or value is wrong; all wrong keys
            are named at once, each with the nearest right name.
    """
    return _validated(RecsysSettings, _read_toml(path), overrides, str(path))


def load_server_settings(path: Path | None, overrides: Sequence[str] = ()) -> ServerSettings:
    """Read how a server runs, as `load_settings` does; without a file, from the overrides alone.

    Raises:
        ConfigError: As `load_settings`.
    """
    content = _read_toml(path) if path else {}
    return _validated(ServerSettings, content, overrides, str(path or "--set"))


def load_store_place(
    path: Path | None, overrides: Sequence[str], store: str | None
) -> tuple[ServerSettings, Path | StoreSettings | None]:
    """Read how a server runs, and where its users' state lies.

    Args:
        path, overrides: As `load_server_settings` takes them.
        store: A directory or a URL, before what the settings say; None leaves it to them.

    Returns:
        The settings, and a directory, a shared server, or None where nothing says it.

    Raises:
        ConfigError: As `load_settings`.
    """
    is_url = store is not None and "://" in store
    wanted = [*overrides, f"store.url={store}"] if is_url else overrides
    settings = load_server_settings(path, wanted)
    return settings, Path(store) if store and not is_url else settings.store


def load_comparison_settings(path: Path | None, overrides: Sequence[str]) -> ComparisonSettings:
    """Read how two bundles are compared, as `load_server_settings` does.

    Raises:
        ConfigError: As `load_settings`.
    """
    content = _read_toml(path) if path else {}
    return _validated(ComparisonSettings, content, overrides, str(path or "--set"))


def override_settings(
    settings: RecsysSettings, overrides: Sequence[str], *, origin: str = "--set"
) -> RecsysSettings:
    """Apply `section.key=value` overrides to settings that were read before.

    Args:
        settings: Of a whole run.
        overrides: As `load_settings` takes them.
        origin: Where they come from, for the error.

    Raises:
        ConfigError: As `load_settings`.
    """
    return _validated(RecsysSettings, settings.model_dump(mode="json"), overrides, origin)


def to_toml(settings: RecsysSettings) -> str:
    """Write what is no default as a file that `load_settings` reads."""
    content = settings.model_dump(mode="json", exclude_defaults=True)
    return "\n".join(_toml_lines(content, ())) + "\n"


def to_override(name: str, value: Any) -> str:
    """Spell a value as `--set` takes it."""
    return f"{name}={_toml_value(value)}"


def _validated(
    model: type[Model], content: dict[str, Any], overrides: Sequence[str], origin: str
) -> Model:
    for override in overrides:
        _apply_override(content, override)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(model, problem)}" for problem in error.errors())
        raise ConfigError(f"{origin}: the configuration is wrong:\n{problems}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; pipelines/configs holds those that run as they are"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got a file that breaks off: {error}") from None


def _apply_override(content: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set expects section.key=value, got {override!r}")
    *sections, key = name.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    content[key] = _parse_value(text)


def _parse_value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    # No setting is a date: the cuts of a split are texts.
    return text if isinstance(value, (date, time)) else value


def _describe(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location)
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error" and isinstance(problem["input"], dict):
            # What several settings say together; their section whole would bury it.
            return f"{name or 'settings that do not go together'}: {message}"
        return f"{name}: {message}; got {problem['input']!r}"
    known = _known_keys(model, location[:-1])
    nearest = difflib.get_close_matches(location[-1], known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known here: {', '.join(known)}"
    return f"{name}: unknown key; {hint}"


def _known_keys(model: type[BaseModel], sections: Sequence[str]) -> list[str]:
    for section in sections:
        if section not in model.model_fields:
            continue  # a name in a table of sections, whose model is known already
        annotation = model.model_fields[section].annotation
        nested = [annotation, *get_args(annotation)]
        model = next(
            kind for kind in nested if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return list(model.model_fields)


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    sections = {key: value for key, value in table.items() if isinstance(value, dict)}
    values = {key: value for key, value in table.items() if key not in sections}
    if path and (values or not sections):
        yield f"\n[{'.'.join(map(_toml_key, path))}]"
    for key, value in values.items():
        yield f"{_toml_key(key)} = {_toml_value(value)}"
    for key, section in sections.items():
        yield from _toml_lines(section, (*path, key))


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        entries = (f"{_toml_key(key)} = {_toml_value(each)}" for key, each in value.items())
        return f"{{ {', '.join(entries)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    # JSON's spelling of strings, numbers and flags is TOML's, but for surrogate pairs.
    return json.dumps(value, ensure_ascii=False)
