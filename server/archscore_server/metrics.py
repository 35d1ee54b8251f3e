"""What Prometheus sees. The front end owns the registry; workers send it numbers.

Label values come from closed sets (spaces, outcomes, methods that exist, status codes), or are names of authenticated
callers, of which there are so many at most: no client can make the number of time series grow.
"""

from __future__ import annotations

import socket
import threading
from enum import StrEnum
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from archscore_server.clients import CALLER
from archscore_server.pool import LossReason
from archscore_server.scheduler import BatchReason, RetryReason

_RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Callers that have a time series of their own.
_MAX_CLIENTS = 1_000
#: How often the page's thread looks whether it is to end; prometheus_client's own server takes half a second to.
_POLL_SECONDS = 0.05


class ArchitectureOutcome(StrEnum):
    """What became of one architecture of a request that was otherwise right."""

    OK = "ok"
    DEGENERATE = "degenerate"  # its logits do not depend on the input
    NON_FINITE = "non_finite"  # a proxy came out NaN or infinite
    INVALID = "invalid"  # its encoding is malformed, or has no network of the resolution asked
    TOO_LARGE = "too_large"  # it is over a limit
    FAILED = "failed"  # its evaluation failed
    EXPIRED = "expired"  # the deadline passed first
    CANCELLED = "cancelled"  # the client left first
    REFUSED = "refused"  # the queue was full, or the server stopped


class Metrics:
    """The metrics of a server; also hears what its scheduler does."""

    def __init__(self) -> None:
        """All at zero, in a registry of their own."""
        self.registry = CollectorRegistry()
        self._architectures = Counter(
            "archscore_architectures", "Architectures answered", ["space", "outcome"], registry=self.registry
        )
        self._client_architectures = Counter(
            "archscore_client_architectures",
            "Architectures answered, by who asked",
            ["client"],
            registry=self.registry,
        )
        self._clients: set[str] = set()
        self._rpcs = Counter("archscore_rpcs", "RPCs ended", ["method", "code"], registry=self.registry)
        self._rpc_seconds = Histogram(
            "archscore_rpc_seconds", "Duration of RPCs", ["method"], buckets=_RPC_SECONDS, registry=self.registry
        )
        self._queued = Gauge(
            "archscore_queued_architectures", "Architectures that wait for a worker", registry=self.registry
        )
        self._batch_size = Histogram(
            "archscore_batch_size",
            "Architectures in a batch, by why it started",
            ["reason"],
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        self._compute_seconds = Counter(
            "archscore_compute_seconds", "Seconds that workers computed", registry=self.registry
        )
        self._merged = Counter(
            "archscore_merged", "Architectures that joined an equal evaluation in flight", registry=self.registry
        )
        self._retried = Counter(
            "archscore_retried", "Architectures that were run again, by why", ["reason"], registry=self.registry
        )
        self._dropped = Counter(
            "archscore_dropped",
            "Architectures dropped from the queue because nobody waited for them any longer",
            ["reason"],
            registry=self.registry,
        )
        self._workers = Gauge("archscore_workers", "Worker processes", registry=self.registry)
        self._workers_ready = Gauge(
            "archscore_workers_ready", "Worker processes that can take a batch or are at one", registry=self.registry
        )
        self._workers_lost = Counter(
            "archscore_workers_lost",
            "Worker processes that were lost and replaced, by why",
            ["reason"],
            registry=self.registry,
        )
        self._tokens_stale = Gauge(
            "archscore_tokens_stale",
            "Whether the token file cannot be used and those of before are in force: 1, or 0",
            registry=self.registry,
        )
        self._store_scores = Counter(
            "archscore_store_scores",
            "Scores that the store was asked for, or was to keep, by what came of it",
            ["result"],
            registry=self.registry,
        )
        self._store_write_failures = Counter(
            "archscore_store_write_failures", "Transactions that the store could not write", registry=self.registry
        )
        self._store_entries = Gauge("archscore_store_entries", "Scores in the store", registry=self.registry)
        self._store_up = Gauge(
            "archscore_store_up", "Whether the store can be read and written: 1, or 0", registry=self.registry
        )

    def architectures_ended(self, space: str, outcome: ArchitectureOutcome, count: int = 1) -> None:
        """So many architectures of a search space, which the current RPC asked for, got this outcome."""
        self._architectures.labels(space, outcome.value).inc(count)
        self._client_architectures.labels(self._client()).inc(count)

    def rpc_ended(self, method: str | None, code: grpc.StatusCode, seconds: float) -> None:
        """An RPC ended; the method is None where there is no such method."""
        label = method or "other"
        self._rpcs.labels(label, code.name).inc()
        self._rpc_seconds.labels(label).observe(seconds)

    def tokens_usable(self, usable: bool) -> None:
        """The token file was read, or could not be used."""
        self._tokens_stale.set(not usable)

    def workers_changed(self, ready: int, workers: int) -> None:
        """So many workers, of so many, are ready now."""
        self._workers.set(workers)
        self._workers_ready.set(ready)

    def worker_lost(self, reason: LossReason) -> None:
        """A worker is gone, and another is being started."""
        self._workers_lost.labels(reason).inc()

    def store_hits(self, count: int) -> None:
        """So many scores that were asked for were in the store."""
        self._store_scores.labels("hit").inc(count)

    def store_misses(self, count: int) -> None:
        """So many scores that were asked for were not in the store."""
        self._store_scores.labels("miss").inc(count)

    def store_written(self, count: int) -> None:
        """So many scores were written."""
        self._store_scores.labels("written").inc(count)

    def store_dropped(self, count: int) -> None:
        """So many scores were given up unwritten."""
        self._store_scores.labels("dropped").inc(count)

    def store_write_failed(self) -> None:
        """A transaction could not be written."""
        self._store_write_failures.inc()

    def store_entries_changed(self, entries: int) -> None:
        """The store holds so many scores now."""
        self._store_entries.set(entries)

    def store_state_changed(self, up: bool) -> None:
        """The store can, or can no longer, be read and written."""
        self._store_up.set(up)

    def queue_depth_changed(self, queued: int) -> None:
        """So many architectures wait now."""
        self._queued.set(queued)

    def batch_started(self, size: int, reason: BatchReason) -> None:
        """A batch went to the pool."""
        self._batch_size.labels(reason).observe(size)

    def batch_ended(self, size: int, seconds: float, compute_seconds: float | None) -> None:  # noqa: ARG002
        """A batch has ended."""
        self._compute_seconds.inc(compute_seconds or 0.0)

    def merged(self, count: int) -> None:
        """So many items of a submission joined evaluations in flight."""
        self._merged.inc(count)

    def retried(self, count: int, reason: RetryReason) -> None:
        """So many architectures will be run again."""
        self._retried.labels(reason).inc(count)

    def expired(self, count: int) -> None:
        """So many architectures were dropped: every waiter's deadline had passed."""
        self._dropped.labels("expired").inc(count)

    def cancelled(self, count: int) -> None:
        """So many architectures were dropped: every waiter had left."""
        self._dropped.labels("cancelled").inc(count)

    def _client(self) -> str:
        """The label of who makes the current RPC."""
        caller = CALLER.get()
        if not caller.authenticated:
            return "anonymous"
        if caller.name not in self._clients and len(self._clients) >= _MAX_CLIENTS:
            return "other"
        self._clients.add(caller.name)
        return caller.name


class MetricsPage:
    """The page that Prometheus reads, served by a thread."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        """Opens the page.

        Raises:
            OSError: the address cannot be listened on.
        """
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]

        class Server(ThreadingWSGIServer):
            address_family = family

        app = make_wsgi_app(metrics.registry)
        self._server = make_server(host, port, app, server_class=Server, handler_class=_QuietHandler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_SECONDS}, name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Closes the page; blocks until its thread has noticed."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietHandler(WSGIRequestHandler):
    """Does not log every scrape."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Does nothing."""
