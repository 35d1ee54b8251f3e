"""The whole server: its parts put together, started in order and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE_NAME
from grpc_reflection.v1alpha import reflection

from archscore.v1 import scoring_pb2_grpc
from archscore_server.access import binding, tls
from archscore_server.access.authentication import Authentication
from archscore_server.access.errors import AccessError
from archscore_server.access.tls import TlsFiles
from archscore_server.access.token_watch import TokenWatch
from archscore_server.config import Settings
from archscore_server.datasets import Catalogue
from archscore_server.engine import Datasets
from archscore_server.engine import proxies as registry
from archscore_server.health import Health
from archscore_server.idle_memory import give_back_when_idle
from archscore_server.interceptor import CallInterceptor
from archscore_server.library import Library, RecordingPool
from archscore_server.metrics import Metrics, MetricsPage
from archscore_server.pool import LossReason, Memory, Pool, PoolObserver, PoolStartError
from archscore_server.scheduler import Scheduler
from archscore_server.scoring import Scoring
from archscore_server.service import SERVICE_NAME, ScoringService
from archscore_server.slices import Slices
from archscore_server.store import Store

#: Seconds for answers to leave once everything has one. Short, since an open health Watch takes all of it.
_LAST_WORDS = 0.5

#: Makes the pool of a server, which tells the observer what becomes of its workers.
MakePool = Callable[[Settings, PoolObserver], Pool]


class StartError(Exception):
    """The server cannot start; the message is for who started it."""


class Server:
    """A server. To be made on the event loop that it will run on.

    Attributes:
        metrics: what it counts.
        port: the port that gRPC listens on, from `start` on.
        metrics_port: the port of the Prometheus page, from `start` on.
        health_port: the port that serves health alone, from `start` on; 0 if there is none.
    """

    def __init__(self, settings: Settings, make_pool: MakePool) -> None:
        """Puts the parts together; nothing runs yet."""
        self.metrics = Metrics(max_queued=settings.limits.max_queued_architectures, store=settings.store)
        self.port = 0
        self.metrics_port = 0
        self.health_port = 0
        self._settings = settings
        self._health = Health([SERVICE_NAME])
        self._pool = pool = make_pool(settings, _Listener(self.metrics, self._health))
        self._catalogue = Catalogue(Datasets(settings.data_dir))
        self._store = Store(
            settings.store,
            max_scores=settings.max_stored_scores,
            observer=self.metrics,
        )
        library = Library(self._store, self._catalogue, pool)
        self._scheduler = Scheduler(
            RecordingPool(pool, library),
            max_queued=settings.limits.max_queued_architectures,
            batch_delay=settings.batch_delay,
            max_batch=settings.max_batch,
            observer=self.metrics,
        )
        self._slices = Slices()
        self._scoring = Scoring(self._scheduler, library, self.metrics, settings.limits, pool, self._slices)
        self._tokens = TokenWatch(settings.tokens, self.metrics.tokens_usable) if settings.tokens else None
        self._grpc = self._grpc_server(Authentication(self._tokens, certificates=settings.tls_client_ca is not None))
        service = ScoringService(self._scoring, pool, self._catalogue, settings.limits)
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(service, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._grpc)
        reflection.enable_server_reflection([SERVICE_NAME, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME], self._grpc)
        # Probes of service managers speak neither TLS nor tokens.
        self._health_grpc = self._grpc_server(Authentication(None, certificates=False))
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._health_grpc)
        self._page: MetricsPage | None = None
        self._giving_back: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answers from the first moment on (health and lists at once), and returns when it scores.

        Raises:
            StartError: a port cannot be opened, or may not be without more protection; certificates or tokens cannot be
                used; or the workers cannot start.
        """
        registry.names()  # imports what installed packages add: here, and not in the middle of the first request
        try:
            await asyncio.to_thread(self._check_binding)
            credentials = self._open_access()
        except AccessError as error:
            raise StartError(str(error)) from error
        await self._health.start()
        self._open_ports(credentials)
        await self._grpc.start()
        if self.health_port:
            await self._health_grpc.start()
        try:
            await asyncio.gather(self._store.open(), self._catalogue.scan(), self._scheduler.start())
        except PoolStartError as error:
            raise StartError(f"the workers cannot start: {error}") from error
        self.metrics.pool_started(self._pool.info)
        self._scoring.open()
        self._giving_back = asyncio.create_task(give_back_when_idle(self._scoring.idle))
        await self._health.open()

    async def leave(self) -> None:
        """Asks load balancers to go elsewhere; requests are still taken."""
        await self._health.close()

    async def drain(self) -> None:
        """Refuses new work and returns when all work in progress has been answered."""
        self._scoring.close()
        await self._health.close()
        await self._scheduler.drain()
        await self._scoring.idle()

    async def stop(self) -> None:
        """Stops: what has no result yet is answered UNAVAILABLE."""
        if self._giving_back:
            self._giving_back.cancel()
        self._scoring.close()
        await self._health.close()
        await self._scheduler.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._scoring.idle(), _LAST_WORDS)
        await asyncio.gather(self._grpc.stop(_LAST_WORDS), self._health_grpc.stop(_LAST_WORDS))
        await self._store.close()
        if self._page:
            await asyncio.to_thread(self._page.close)

    def _grpc_server(self, authentication: Authentication) -> grpc.aio.Server:
        interceptor = CallInterceptor(self.metrics, authentication, self._slices, self._settings.write_timeout)
        return grpc.aio.server(interceptors=[interceptor], options=self._settings.grpc_options)

    def _check_binding(self) -> None:
        settings = self._settings
        binding.check(
            settings.host,
            encrypted=settings.tls_certificate is not None,
            authenticated=settings.tokens is not None or settings.tls_client_ca is not None,
            insecure=settings.insecure,
        )

    def _open_access(self) -> grpc.ServerCredentials | None:
        """Reads tokens and certificates; gives the credentials of the port, if it has TLS."""
        settings = self._settings
        if self._tokens:
            self._tokens.start()
        files = TlsFiles.of(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        return tls.server_credentials(files) if files else None

    def _open_ports(self, credentials: grpc.ServerCredentials | None) -> None:
        settings = self._settings
        self.port = _listen(self._grpc, settings.host, settings.port, credentials)
        if settings.health_port is not None:
            self.health_port = _listen(self._health_grpc, settings.host, settings.health_port, None)
        try:
            self._page = MetricsPage(self.metrics.registry, settings.metrics_host, settings.metrics_port)
        except OSError as error:
            where = address(settings.metrics_host, settings.metrics_port)
            raise StartError(f"cannot serve metrics on {where}: {error}") from error
        self.metrics_port = self._page.port


class _Listener:
    """Tells metrics and health what becomes of workers."""

    def __init__(self, metrics: Metrics, health: Health) -> None:
        self._metrics = metrics
        self._health = health

    def workers_changed(self, *, idle: int, busy: int, workers: int) -> None:
        self._metrics.workers_changed(idle=idle, busy=busy, workers=workers)
        self._health.workers_changed(idle + busy)

    def worker_lost(self, reason: LossReason) -> None:
        self._metrics.worker_lost(reason)

    def worker_memory(self, place: int, device: str, memory: Memory) -> None:
        self._metrics.worker_memory(place, device, memory)


def _listen(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    """Has a server listen and returns the port.

    Raises:
        StartError: it cannot.
    """
    where = address(host, port)
    try:
        return server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {where}: is the port in use, or the host another's?") from error


def address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
