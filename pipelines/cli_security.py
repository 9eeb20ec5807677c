"""The commands of `recsys` that make keys and tokens, and sign bundles."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from recsys.signing import fingerprint, public_path, read_private_key, write_key_pair
from recsys.verification import sign_bundle

key_app = typer.Typer(help="Keys that sign bundles.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens that let callers in.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]


@key_app.command("create")
def create_key(
    path: Annotated[Path, typer.Argument(help="File of the private key, as in site.key.")],
    as_json: AsJson = False,
) -> None:
    """Make a key pair; the public key lands beside the private one, as .pub."""
    name = fingerprint(write_key_pair(path))
    public = public_path(path)
    if as_json:
        print(json.dumps({"key": name, "private_file": str(path), "public_file": str(public)}))
    else:
        print(f"key {name}: keep {path} where bundles are signed, and nowhere else")
        print(f'servers that shall trust it: trusted_keys = ["{public}"]')


def sign(
    bundle: Annotated[Path, typer.Option("--bundle", help="Directory of the bundle.")],
    key: Annotated[Path, typer.Option("--key", help="File of the private key.")],
    as_json: AsJson = False,
) -> None:
    """Verify a bundle and sign it; its id stays, an earlier signature is replaced."""
    manifest = sign_bundle(bundle, read_private_key(key))
    name = manifest["signature"]["key"]
    if as_json:
        print(json.dumps({"bundle_id": manifest["bundle_id"], "key": name}))
    else:
        print(f"bundle {manifest['bundle_id'][:12]} is signed by key {name}")


@token_app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Of who will hold it, as logs have it.")],
    file: Annotated[Path, typer.Option("--file", help="The server's tokens_file.")],
    methods: Annotated[
        list[str],
        typer.Option("--method", help="RecommendItems, ..., or a whole service; may be repeated."),
    ],
    expires: Annotated[
        datetime | None, typer.Option("--expires", help="UTC; without it, never.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token, add its hash to the server's file, and print it: it is kept nowhere else."""
    from serving.tokens import add_token

    until = None if expires is None else expires.replace(tzinfo=UTC)
    token = add_token(file, name, methods, until)
    print(json.dumps({"name": name, "token": token}) if as_json else token)
