"""The commands `recsys state ...`: users' states and the server's store."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines import run as run_pipeline
from pipelines.cli_output import announce, print_result
from pipelines.config import load_settings, load_store_place
from recsys.errors import ConfigError
from serving.settings import StoreSettings
from serving.store import StateStore

state_app = typer.Typer(help="Users' states and the server's store.", no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="TOML file, see pipelines/configs.")]
ServerConfig = Annotated[
    Path | None, typer.Option("--config", help="TOML file of the server, for [store].")
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store", help="The server's store: a directory, or redis://...; or in --config."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]


@state_app.command("import")
def state_import(
    state: Annotated[Path, typer.Option("--state", help="Directory written by `recsys run`.")],
    store: Store = None,
    config: ServerConfig = None,
    as_json: AsJson = False,
) -> None:
    """Load users' states into a server's store; events recorded since are kept."""
    from recsys.progress import track
    from recsys.state_files import read_manifest_of_states, read_states

    manifest = read_manifest_of_states(state)
    opened, name = _open(store, config)
    try:
        states = track(read_states(state), "import states", manifest["num_users"])
        number = opened.import_states(states, manifest["data_until"])
    finally:
        opened.close()
    print_result({"users": number, "store": name}, as_json)


@state_app.command("export")
def state_export(
    config: Config,
    overrides: Annotated[
        list[str], typer.Option("--set", help="section.key=value, may be repeated.")
    ] = [],  # noqa: B006  # typer reads the default, nobody changes it
    out: Annotated[Path | None, typer.Option("--out", help="Default: runs/NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Do finished steps again.")] = False,
) -> None:
    """Write users' states as of the bundle's data_until."""
    settings = load_settings(config, overrides)
    directory = out or Path("runs") / settings.name
    run_pipeline.run_one("state", settings, directory, forced=force, announce=announce)


@state_app.command("export-events")
def state_export_events(
    out: Annotated[Path, typer.Option("--out", help="Directory, made or replaced.")],
    store: Store = None,
    config: ServerConfig = None,
    since: Annotated[
        datetime | None, typer.Option("--since", help="Events from this time (UTC) on.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", help="Events before this time (UTC).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the events that servers recorded as a log by the data contract."""
    from pipelines import export_events

    opened, name = _open(store, config)
    begin, end = _microseconds(since) or 0, _microseconds(until)
    try:
        number = export_events.main(opened, out, since=begin, until=end)
    finally:
        opened.close()
    print_result({"events": number, "store": name, "directory": str(out)}, as_json)


def _microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return int(moment.replace(tzinfo=UTC).timestamp()) * 1_000_000


def _open(store: str | None, config: Path | None) -> tuple[StateStore, str]:
    """Return a server's store, and what it is called."""
    from serving.open_store import open_store
    from serving.server import new_logger

    _, place = load_store_place(config, [], store)
    if place is None:
        raise ConfigError("expected --store, a directory or redis://..., or [store] in --config")
    name = place.url if isinstance(place, StoreSettings) else str(place)
    return open_store(place, new_logger(sys.stderr))[0], name
