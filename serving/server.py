"""The server: built from its parts, started, made ready, stopped.

Built apart from starting, so that tests take port 0 and clocks of their own. It listens first and
answers UNAVAILABLE (health: NOT_SERVING) until its bundle is verified, loaded and warm.
"""

import gc
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import grpc
import orjson
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from recsys.errors import BundleError, ConfigError, StateError
from serving.admin_servicer import AdminServicer
from serving.answer_log import AnswerLog
from serving.answering import Answering
from serving.background import Repeated
from serving.batching import Batching
from serving.call_pool import CallPool
from serving.interceptors import CallInterceptor
from serving.metrics import Metrics
from serving.open_store import open_store
from serving.pages import Rankings
from serving.protection import check_exposure, log_key_of, new_access, new_load, read_credentials
from serving.reload import Bundles, Load
from serving.servicer import RecommenderServicer
from serving.settings import ServerSettings, StoreSettings
from serving.shadow import Shadow
from serving.status import PreconditionError
from serving.stop_signal import StopSignal
from serving.store import StateStore
from serving.tracing import Tracing, new_tracing
from serving.trials import user_split
from serving.v1 import admin_pb2, admin_pb2_grpc, recommender_pb2, recommender_pb2_grpc

MAX_MESSAGE_BYTES = 1 << 20
MAX_WAITING_CALLS = 512
"""Calls held at once, the last resort: before it `CallPool` refuses those that would be late."""
HANDSHAKE_TIMEOUT_MS = 10_000
"""A connection that says nothing is closed after this; gRPC would wait two minutes."""
MOST_THREADS = 8
RECOMMENDER_SERVICE = recommender_pb2.DESCRIPTOR.services_by_name["RecommenderService"].full_name
ADMIN_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
FOLLOW_SECONDS = 1.0
"""How often counters catch up with what other servers recorded in the same store."""


@dataclass(frozen=True)
class ServerOptions:
    """How a server listens.

    Args:
        host: Address to listen on. One that others reach is refused unless calls are encrypted
            and callers known, or `settings.open_to_network` says that it is all right.
        port: 0 takes a free one.
        threads: Rankings made at once, each for all calls that wait; None takes as many as there
            are cores for this process, at most 8. More only get in each other's way, and in the
            way of refusing a call quickly.
        reuse_port: Share the port with other servers (SO_REUSEPORT).
        admin: Also register `AdminService`.
        metrics_port: Port of the Prometheus endpoint on loopback; None for none.
        grace_seconds: How long a stop waits for calls in flight.
        drain_seconds: How long `serve` lets callers go elsewhere, before it stops.
        settings: Who may reach it, and what it tells of itself.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    threads: int | None = None
    reuse_port: bool = False
    admin: bool = False
    metrics_port: int | None = None
    grace_seconds: float = 10.0
    drain_seconds: float = 1.0
    settings: ServerSettings = ServerSettings()


def system_clock() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


def usual_threads(num_cores: int) -> int:
    """Return how many rankings are made at once where nobody says it."""
    return min(num_cores, MOST_THREADS)


class RecsysServer:
    """One server with its services, health, reflection and metrics.

    Args:
        store: Users' state; closed by `stop`.
        options: How to listen.
        clock: Returns microseconds since the epoch.
        load: Makes a recommender of a bundle's directory; None demands a signature by one of the
            settings' trusted keys, if there are any.
        logger: Gets one event a call, see `new_logger`.
        log_key: Secret under which user ids are hashed in the log.
        tracing: Gets spans; None makes it as the settings say.

    Raises:
        ConfigError: The address cannot be listened on, or one of the settings' files is wrong.
    """

    def __init__(
        self,
        store: StateStore,
        options: ServerOptions,
        *,
        clock: Callable[[], int] = system_clock,
        load: Load | None = None,
        logger: Any = None,
        log_key: bytes | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        settings = options.settings
        check_exposure(options.host, settings)
        credentials = read_credentials(settings, clock())
        logger = logger or new_logger(sys.stderr)
        access = new_access(settings, clock, logger)
        self.metrics = Metrics()
        self.bundles = Bundles(store, self.metrics, clock, load or new_load(settings))
        self._store, self._options, self._clock = store, options, clock
        self._logger = logger
        if tracing is None and settings.tracing:
            tracing = new_tracing(settings.tracing, logger)
        self._tracing = tracing
        self._answer_log = (
            AnswerLog(settings.answer_log, self.metrics, logger, clock)
            if settings.answer_log
            else None
        )
        threads = options.threads or usual_threads(len(os.sched_getaffinity(0)))
        pool = self._pool = CallPool(threads, settings.limits.max_wait_ms / 1000)
        self._batching = Batching(
            threads, settings.limits.max_batch_ms / 1000, note_size=self.metrics.count_batch
        )
        self._shadow = Shadow(self.bundles, self.metrics.shadow, lambda: pool.num_waiting > 0)
        self._interceptor = CallInterceptor(
            self.metrics,
            logger,
            log_key_of(settings, log_key or secrets.token_bytes(32)),
            access,
            tracing,
            lambda: pool.refused_wait_seconds,
        )
        self._server = grpc.server(
            self._pool,  # type: ignore[arg-type]  # any Executor does: it only submits and shuts down
            interceptors=[self._interceptor],
            options=_channel_options(options),
            maximum_concurrent_rpcs=MAX_WAITING_CALLS,
        )
        self._health = health.HealthServicer()
        self._services = [RECOMMENDER_SERVICE] + [ADMIN_SERVICE] * options.admin
        self._register(store, clock)
        self.port = _listen(self._server, options, credentials)
        self._metrics_endpoint: Any = None
        self._follower = Repeated(self._follow, FOLLOW_SECONDS, "follow")

    def start(self) -> None:
        """Listen; not ready until a bundle is activated."""
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._server.start()
        self._follower.start()
        self._shadow.start()
        if self._answer_log is not None:
            self._answer_log.start()
        if self._options.metrics_port is not None:
            self._metrics_endpoint = start_http_server(
                self._options.metrics_port, "127.0.0.1", self.metrics.registry
            )

    def make_ready(self, bundle_directory: Path) -> None:
        """Verify, load and warm a bundle, then report SERVING.

        Raises:
            BundleError: The bundle is refused.
        """
        self.bundles.activate_directory(bundle_directory)
        self._start_trials()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def drain(self, seconds: float) -> None:
        """Let callers go elsewhere before a stop: gRPC cancels calls that reach it meanwhile.

        For the first half of the time all calls are answered, as health says that this is to end;
        then new ones are told UNAVAILABLE, which clients try elsewhere.
        """
        self._health.enter_graceful_shutdown()
        time.sleep(seconds / 2)
        self._interceptor.stop_admitting()
        time.sleep(seconds / 2)

    def stop(self) -> float:
        """Refuse new calls, let those in flight end within the grace; return seconds taken."""
        started = time.perf_counter()
        self._health.enter_graceful_shutdown()
        self._server.stop(self._options.grace_seconds).wait()
        # A handler past the grace may still use the store: it must end before the store closes.
        self._pool.shutdown(wait=True)
        self._follower.stop()
        self._shadow.stop()
        if self._answer_log is not None:
            self._answer_log.stop()
        if self._metrics_endpoint is not None:
            endpoint, thread = self._metrics_endpoint
            endpoint.shutdown()
            endpoint.server_close()
            thread.join()
        if self._tracing is not None:
            self._tracing.close()
        self._store.close()
        return time.perf_counter() - started

    def _register(self, store: StateStore, clock: Callable[[], int]) -> None:
        answering = Answering(
            self.bundles,
            store,
            self.metrics,
            clock,
            self._batching,
            answer_log=self._answer_log,
            shadow=self._shadow,
        )
        servicer = RecommenderServicer(self.bundles, store, Rankings(clock), answering, clock)
        recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(servicer, self._server)
        if self._options.admin:
            admin = AdminServicer(self.bundles, store, self._answer_log)
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def _start_trials(self) -> None:
        settings = self._options.settings
        for trial, start in (
            (settings.canary, self.bundles.start_canary),
            (settings.shadow, self.bundles.start_shadow),
        ):
            if trial is None:
                continue
            try:
                start(trial.bundle, user_split(trial.salt, trial.share))
            except (BundleError, PreconditionError) as error:  # the active bundle answers all
                self._logger.error("trial", error=str(error), bundle=str(trial.bundle))

    def _follow(self) -> None:
        # A store that is down is told by the answers; nothing that it missed is lost.
        with suppress(StateError):
            self.bundles.counting.follow()
            self.metrics.show_followed(self._clock())

    def _set_health(self, status: Any) -> None:
        for name in (health.OVERALL_HEALTH, *self._services):
            self._health.set(name, status)


def serve(
    bundle_directory: Path,
    state_place: Path | StoreSettings | None,
    options: ServerOptions,
    *,
    load: Load | None = None,
) -> None:
    """Serve a bundle until SIGTERM or SIGINT; prints when it is ready and when it has stopped.

    Args:
        bundle_directory: The bundle; those beside it can be activated instead.
        state_place: Where users' state lies, as `open_store` takes it.
        options: How to listen.
        load: As `RecsysServer` takes it.

    Raises:
        BundleError: The bundle is refused.
        ConfigError: The address cannot be listened on, or one of the settings' files is wrong.
        StateError: The store cannot be opened.
    """
    started = time.perf_counter()
    exempt_from_collection()
    with StopSignal() as stopping:
        logger = new_logger(sys.stderr)
        store, log_key = open_store(state_place, logger)
        server = RecsysServer(store, options, load=load, logger=logger, log_key=log_key)
        server.start()
        try:
            server.make_ready(bundle_directory)
            bundle_id = server.bundles.current().bundle_id
            seconds = time.perf_counter() - started
            place = f"{options.host}:{server.port}"
            print(
                f"serving bundle {bundle_id[:12]} on {place}, ready in {seconds:.2f} s", flush=True
            )
            stopping.wait()
            server.drain(options.drain_seconds)
        finally:
            seconds = server.stop()
            print(f"stopped in {seconds:.2f} s", flush=True)


def exempt_from_collection() -> None:
    """Have Python's searches for cycles pass over what is there now: for a server's process.

    A full search stops every call for as long as it takes, tens of milliseconds if it looks through
    all that was imported.
    """
    gc.collect()
    gc.freeze()


def new_logger(stream: TextIO) -> Any:
    """Return a logger that writes one JSON line an event."""
    return structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(_to_json),
        ],
        wrapper_class=structlog.BoundLogger,
    )


def _to_json(event: dict[str, Any], default: Callable[[Any], Any]) -> str:
    try:
        return orjson.dumps(event, default, orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # half a surrogate pair in a path, a number beyond 64 bits
        return json.dumps(event, default=default, sort_keys=True)


def _channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    return [
        # On by default in gRPC: two servers would silently share a port.
        ("grpc.so_reuseport", int(options.reuse_port)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ]


def _listen(
    server: grpc.Server, options: ServerOptions, credentials: grpc.ServerCredentials | None
) -> int:
    address = f"{options.host}:{options.port}"
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise ConfigError(
            f"cannot listen on {address}: another process has the port, or the host is not of "
            f"this machine; choose another port (0 takes a free one) or stop the other process"
        )
    return port
