"""Bearer tokens: who may call which methods. The file holds hashes only, so reading it gives
nobody a token.

    [[tokens]]
    name = "site"
    sha256 = "5994..."                        # of the token, in hex
    methods = ["RecommendItems", "RecordEvents"]
    expires = 2027-01-01T00:00:00Z            # optional

A token is 32 random bytes, so one round of sha256 is as hard to turn back as many. A method is
its plain name; the name of a service stands for all of its methods.
"""

import difflib
import hashlib
import hmac
import os
import secrets
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from recsys.errors import ConfigError
from recsys.settings import Settings
from serving.v1 import admin_pb2, recommender_pb2

PREFIX = "recsys_"
"""By which scanners for secrets know a token that was left somewhere."""
TOKEN_BYTES = 32
SERVICES = {
    name: frozenset(method.name for method in service.methods)
    for file in (recommender_pb2, admin_pb2)
    for name, service in file.DESCRIPTOR.services_by_name.items()
}
METHODS = frozenset().union(*SERVICES.values())


class TokenSettings(Settings):
    """One entry of the file."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    methods: tuple[str, ...] = Field(min_length=1)
    expires: AwareDatetime | None = None


class TokensFile(Settings):
    """The file."""

    tokens: tuple[TokenSettings, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Token:
    """What a token allows.

    Args:
        name: Of its holder, as logs have it.
        digest: sha256 of the token.
        methods: Plain names of the methods.
        expires: None for never.
    """

    name: str
    digest: bytes
    methods: frozenset[str]
    expires: datetime | None


class Tokens:
    """All tokens that a server knows."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tuple(tokens)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._tokens)

    def __iter__(self) -> Iterator[Token]:
        """Give them in the order of the file."""
        return iter(self._tokens)

    def find(self, presented: str) -> Token | None:
        """Return the token that a caller holds, None if it is none of these.

        Takes as long for every wrong one: hashes are compared in constant time, and all of them.
        """
        digest = hash_token(presented)
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


class TokensOnFile:
    """The tokens of a file, read anew once it has changed.

    A file that is then missing or wrong changes nothing: the tokens read last still hold.

    Args:
        path: The file.
        report: Told what is wrong with it, once a change.

    Raises:
        ConfigError: It is missing or wrong from the start.
    """

    def __init__(self, path: Path, report: Callable[[ConfigError], None]) -> None:
        self._path, self._report = path, report
        self._version = self._read_version()
        self._tokens = read_tokens(path)

    def find(self, presented: str) -> Token | None:
        """Return the token that a caller holds, None if it is none of the file's."""
        version = self._read_version()
        if version != self._version:
            self._version = version
            try:
                self._tokens = read_tokens(self._path)
            except ConfigError as error:
                self._report(error)
        return self._tokens.find(presented)

    def _read_version(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_ino, status.st_mtime_ns, status.st_size


def hash_token(token: str) -> bytes:
    """Return the sha256 of a token."""
    return hashlib.sha256(token.encode()).digest()


def read_tokens(path: Path) -> Tokens:
    """Read a tokens file.

    Raises:
        ConfigError: It is missing or no TOML, has a wrong entry, or two of one name or token.
    """
    return Tokens(
        [
            Token(entry.name, bytes.fromhex(entry.sha256), _methods(path, entry), entry.expires)
            for entry in _read_entries(path)
        ]
    )


def add_token(path: Path, name: str, methods: Sequence[str], expires: datetime | None) -> str:
    """Make a token, add its hash to the file (made if it does not exist), and return the token.

    Raises:
        ConfigError: The name is taken or malformed, a method unknown, or the file wrong.
    """
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    values = {"name": name, "sha256": hash_token(token).hex(), "methods": methods}
    try:
        entry = TokenSettings.model_validate(values | {"expires": expires})
    except ValidationError as error:
        raise ConfigError(f"the token is wrong: {_first_problem(error)}") from None
    _methods(path, entry)
    if path.exists() and name in {other.name for other in _read_entries(path)}:
        raise ConfigError(f"{path}: has a token {name!r} already; choose another name")
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    _write_private(path, before + _to_toml(entry))
    return token


def _read_entries(path: Path) -> tuple[TokenSettings, ...]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = TokensFile.model_validate(content).tokens
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror or error}; `recsys token create` makes one"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: expected TOML, got a file that breaks off: {error}") from None
    for what in ("name", "sha256"):
        _check_unique(path, what, [getattr(entry, what) for entry in entries])
    return entries


def _check_unique(path: Path, what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{path}: two tokens have the {what} {value!r}; remove one")
        seen.add(value)


def _methods(path: Path, entry: TokenSettings) -> frozenset[str]:
    """Return the plain methods of an entry, services replaced by theirs."""
    for name in entry.methods:
        if name not in METHODS and name not in SERVICES:
            known = sorted(METHODS | set(SERVICES))
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
            raise ConfigError(f"{path}: token {entry.name!r}: no method {name!r}; {hint}")
    return frozenset().union(*(SERVICES.get(name, {name}) for name in entry.methods))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}, got {problem['input']!r:.80}"


def _to_toml(entry: TokenSettings) -> str:
    methods = ", ".join(f'"{name}"' for name in entry.methods)
    lines = ["[[tokens]]", f'name = "{entry.name}"', f'sha256 = "{entry.sha256}"']
    lines.append(f"methods = [{methods}]")
    if entry.expires is not None:
        lines.append(f"expires = {entry.expires.isoformat()}")
    return "\n".join(lines) + "\n\n"


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one step; only its owner may read it."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
