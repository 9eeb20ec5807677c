"""How one server runs: who may reach it, who vouches for its bundles, what it tells of itself.

A TOML file for `recsys serve --config`, apart from what a bundle was made by. All paths count
from the working directory.
"""

from math import ceil
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from recsys.settings import Settings


class TlsSettings(Settings):
    """Encryption of every call. PEM files, read when the server starts."""

    certificate_file: Path
    """The server's certificate, then those between it and the authority."""
    private_key_file: Path
    client_authority_file: Path | None = None
    """Demands of callers a certificate by one of these authorities (mTLS)."""


class LimitSettings(Settings):
    """How long calls may wait, and what one caller may take of the server's time."""

    max_wait_ms: int = Field(default=500, ge=1)
    """A call that would wait longer for its turn is refused at once, as is one whose deadline
    would pass meanwhile."""
    max_batch_ms: int = Field(default=25, ge=0)
    """Calls that wait are ranked together as long as that takes no longer; 0 ranks each alone."""

    calls_per_second: float | None = Field(default=None, gt=0)
    """Of each caller, on average; None for no limit."""
    burst_calls: int | None = Field(default=None, ge=1)
    """At once; None for a second's worth."""

    @property
    def burst(self) -> int:
        """Calls that a caller may make at once after a pause."""
        return self.burst_calls or ceil(self.calls_per_second or 1)


class LogSettings(Settings):
    """The line that each call leaves."""

    user_ids: Literal["hashed", "omitted"] = "hashed"


class TracingSettings(Settings):
    """Spans for OpenTelemetry; needs `recsys[tracing]`."""

    endpoint: str = Field(pattern=r"^https?://[^\s/]+$")
    """OTLP over gRPC, as in `http://127.0.0.1:4317`; https for an encrypted one."""
    sample_share: float = Field(default=1.0, ge=0, le=1)
    """Of the calls whose caller has not decided already."""


class StoreSettings(Settings):
    """Users' state on a server of Redis or Valkey; needs `recsys[redis]`."""

    url: str = Field(pattern=r"^(rediss?|unix)://")
    """As in `redis://127.0.0.1:6379/0`; rediss for an encrypted one, unix for a socket file."""
    password_file: Path | None = None
    """File that holds the password; of which user the URL may say (`redis://recsys@host`)."""
    authority_file: Path | None = None
    """Who vouches for the server's certificate (PEM); None trusts the system's authorities."""
    timeout_ms: int = Field(default=50, ge=1)
    """How long an answer waits for what is known of its user, before it goes without."""
    write_timeout_ms: int = Field(default=1000, ge=1)
    """How long a record waits to be stored, before it is refused."""
    min_replicas: int = Field(default=0, ge=0)
    """Replicas that must have received a record before it is acknowledged."""

    @model_validator(mode="after")
    def _check_no_password(self) -> Self:
        if urlsplit(self.url).password is not None:
            raise ValueError(
                "expected no password in store.url, where logs and lists of processes show it; put "
                "it into a file and name that as store.password_file"
            )
        return self

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is."""
        return self.url.startswith("rediss://")


class AnswerLogSettings(Settings):
    """What was answered, for the next training and for off-policy estimates."""

    directory: Path
    """Made if it does not exist. Several servers may share one."""
    flush_seconds: float = Field(default=30, gt=0)
    """What a kill may lose."""
    feature_share: float = Field(default=0, ge=0, le=1)
    """Of the answers whose items' features are written too."""
    candidate_share: float = Field(default=0, ge=0, le=1)
    """Of the answers whose candidates are all written."""
    keep_days: int | None = Field(default=None, ge=1)
    """Older files are deleted; None keeps all."""


class TrialSettings(Settings):
    """A second bundle from the start on: `[canary]` answers users, `[shadow]` only computes."""

    bundle: Path
    """Its directory."""
    share: float = Field(gt=0, lt=1)
    """Of the users (canary) or of the requests (shadow)."""
    salt: str = Field(min_length=1)
    """Name of the trial, which decides who is in: `recsys.experiment.assignment`."""


class ServerSettings(Settings):
    """One server."""

    open_to_network: bool = False
    """Listen on an address that others reach although something below is missing."""
    tokens_file: Path | None = None
    """Who may call what, see `serving.tokens`; None asks no caller for a token."""
    trusted_keys: tuple[Path, ...] = ()
    """Public keys; with any, only bundles signed by one of them are served."""
    tls: TlsSettings | None = None
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings | None = None
    answer_log: AnswerLogSettings | None = None
    canary: TrialSettings | None = None
    shadow: TrialSettings | None = None
    store: StoreSettings | None = None
    """None: a directory of this machine, which the command line names."""

    @property
    def knows_its_callers(self) -> bool:
        """Whether every caller has to prove who it is."""
        return bool(self.tokens_file or (self.tls and self.tls.client_authority_file))
