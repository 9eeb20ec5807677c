"""The command `recsys serve`."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.config import load_store_place

ServerConfig = Annotated[
    Path | None, typer.Option("--config", help="TOML file of the server, see docs/operations.md.")
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Users' state: a directory, or redis://...; default: store/ beside the bundle.",
    ),
]


def serve(
    bundle: Annotated[Path, typer.Option("--bundle", help="Directory of the bundle.")],
    store: Store = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 50051,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Rankings made at once; default: the cores, up to 8.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Prometheus endpoint on loopback.")
    ] = None,
    answer_log: Annotated[
        Path | None, typer.Option("--answer-log", help="Write all answers to this directory.")
    ] = None,
    config: ServerConfig = None,
    overrides: Annotated[
        list[str], typer.Option("--set", help="section.key=value, may be repeated.")
    ] = [],  # noqa: B006  # typer reads the default, nobody changes it
    admin: Annotated[bool, typer.Option("--admin", help="Also offer AdminService.")] = False,
    reuse_port: Annotated[
        bool, typer.Option("--reuse-port", help="Share the port with further servers.")
    ] = False,
    open_to_network: Annotated[
        bool,
        typer.Option("--open-to-network", help="Where a proxy encrypts, and knows who calls."),
    ] = False,
) -> None:
    """Answer over gRPC until SIGTERM."""
    from serving.server import ServerOptions
    from serving.server import serve as serve_bundle

    wanted = [*overrides, f"answer_log.directory={answer_log}"] if answer_log else overrides
    settings, place = load_store_place(config, wanted, store)
    if open_to_network:
        settings = settings.model_copy(update={"open_to_network": True})
    options = ServerOptions(
        host=host,
        port=port,
        threads=threads,
        reuse_port=reuse_port,
        admin=admin,
        metrics_port=metrics_port,
        settings=settings,
    )
    serve_bundle(bundle, place or bundle.parent / "store", options)
