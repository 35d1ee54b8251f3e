"""What is counted: the registry, and who tells it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar, cast, get_args

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from archscore import __version__
from archscore.spaces import SPACES
from archscore.v1 import scoring_pb2
from archscore_server.clients import CALLER
from archscore_server.engine.statistics import Pass
from archscore_server.metrics._outcomes import ArchitectureOutcome, ProxyOutcomes
from archscore_server.metrics._utilization import Utilization
from archscore_server.pool import BatchReport, LossReason, Memory, PoolInfo
from archscore_server.scheduler import BatchReason, Priority, RetryReason

_RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_WAIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_BATCH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Callers that have a time series of their own.
_MAX_CLIENTS = 1_000
#: Codes that calls of this service end with.
_USUAL_CODES = (
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNAVAILABLE,
)
M = TypeVar("M", Counter, Gauge, Histogram)

_LABELS = {priority: priority.name.lower() for priority in Priority}

#: What a batch's worker did besides passes.
_REST = "other"
#: When each series began doubles the page, and Prometheus has no use for it.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of a server; also hears what its scheduler, pool and store do."""

    def __init__(self, *, max_queued: int = 0, store: Path | None = None) -> None:
        """All at zero, in a registry of their own.

        Args:
            max_queued: architectures that may wait.
            store: file of the score store.
        """
        self.registry = registry = CollectorRegistry()
        self._known_series: dict[tuple[object, ...], object] = {}
        # What clients ask for.
        self._architectures = Counter(
            "archscore_architectures", "Architectures answered", ["space", "outcome"], registry=registry
        )
        self._scores = Counter(
            "archscore_scores",
            "Architectures answered, once for each proxy asked for",
            ["space", "proxy", "outcome"],
            registry=registry,
        )
        self._client_architectures = Counter(
            "archscore_client_architectures", "Architectures answered, by who asked", ["client"], registry=registry
        )
        self._clients: set[str] = set()
        self._rpcs = Counter("archscore_rpcs", "RPCs ended", ["method", "code"], registry=registry)
        self._rpc_seconds = Histogram(
            "archscore_rpc_seconds", "Duration of RPCs", ["method", "code"], buckets=_RPC_SECONDS, registry=registry
        )
        self._merged = Counter(
            "archscore_merged", "Architectures that joined an equal evaluation in flight", registry=registry
        )
        # The queue, and what leaves it.
        self._queued = Gauge(
            "archscore_queued_architectures", "Architectures that wait for a worker", ["priority"], registry=registry
        )
        limit = Gauge("archscore_queue_limit_architectures", "Architectures that may wait", registry=registry)
        limit.set(max_queued)
        self._wait_seconds = Histogram(
            "archscore_queue_wait_seconds",
            "Wait of architectures until their first batch starts",
            ["priority"],
            buckets=_WAIT_SECONDS,
            registry=registry,
        )
        self._dropped = Counter(
            "archscore_dropped",
            "Architectures dropped from the queue because nobody waited for them any longer",
            ["reason"],
            registry=registry,
        )
        self._retried = Counter(
            "archscore_retried", "Architectures that were run again, by why", ["reason"], registry=registry
        )
        self._batch_size = Histogram(
            "archscore_batch_size",
            "Architectures in a batch, by why it started",
            ["reason"],
            buckets=_BATCH_SIZES,
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "archscore_batch_seconds",
            "Duration of batches, however they ended",
            buckets=_BATCH_SECONDS,
            registry=registry,
        )
        self._compute_seconds = Counter(
            "archscore_compute_seconds", "Seconds that workers computed, by pass", ["pass"], registry=registry
        )
        # Workers and devices.
        self._workers = Gauge("archscore_workers", "Worker processes", ["state"], registry=registry)
        self._workers_ready = Gauge(
            "archscore_workers_ready", "Worker processes that can take a batch or are at one", registry=registry
        )
        self._workers_lost = Counter(
            "archscore_workers_lost",
            "Worker processes that were lost and replaced, by why",
            ["reason"],
            registry=registry,
        )
        self._worker_memory = Gauge(
            "archscore_worker_memory_bytes",
            "Memory of a worker process",
            ["worker", "device", "kind"],
            registry=registry,
        )
        self._device_used = Gauge(
            "archscore_device_memory_used_bytes",
            "Memory in use on a device, by whomever",
            ["device"],
            registry=registry,
        )
        self._device_size = Gauge(
            "archscore_device_memory_size_bytes", "Memory that a device has", ["device"], registry=registry
        )
        self._utilization = Utilization()
        registry.register(self._utilization)
        # The store, access and the server itself.
        self._store_scores = Counter(
            "archscore_store_scores",
            "Scores that the store was asked for, or was to keep, by what came of it",
            ["result"],
            registry=registry,
        )
        self._store_write_failures = Counter(
            "archscore_store_write_failures", "Transactions that the store could not write", registry=registry
        )
        self._store_entries = Gauge("archscore_store_entries", "Scores in the store", registry=registry)
        store_file = Gauge(
            "archscore_store_file_bytes", "Size of the file of the store and of the log beside it", registry=registry
        )
        store_file.set_function(partial(_bytes_of, store))
        self._store_up = Gauge(
            "archscore_store_up", "Whether the store can be read and written: 1, or 0", registry=registry
        )
        self._tokens_stale = Gauge(
            "archscore_tokens_stale",
            "Whether the token file cannot be used and those of before are in force: 1, or 0",
            registry=registry,
        )
        self._build = Info("archscore_build", "What runs here; the value is always 1", registry=registry)
        self._show_build()
        ProcessCollector(namespace="archscore", registry=registry)
        self._begin_at_zero()

    def architectures_ended(
        self,
        space: str,
        proxies: Sequence[str],
        outcome: ArchitectureOutcome,
        count: int = 1,
        exceptions: ProxyOutcomes = (),
    ) -> None:
        """So many architectures, which the current RPC asked for, got this outcome.

        Args:
            space: their search space.
            proxies: those asked for.
            outcome: what became of each architecture.
            count: how many.
            exceptions: proxies whose score of each came out otherwise.
        """
        self._series(self._architectures, space, outcome.value).inc(count)
        by_proxy = dict(exceptions)
        for proxy in proxies:
            self._series(self._scores, space, proxy, by_proxy.get(proxy, outcome).value).inc(count)
        self._series(self._client_architectures, self._client()).inc(count)

    def rpc_ended(
        self, method: str | None, code: grpc.StatusCode, seconds: float, request_id: str | None = None
    ) -> None:
        """An RPC ended; the method is None where there is no such method, the id where it was refused at once."""
        labels = (method or "other", code.name)
        exemplar = {"request_id": request_id} if request_id else None
        self._series(self._rpcs, *labels).inc()
        self._series(self._rpc_seconds, *labels).observe(seconds, exemplar)

    def pool_started(self, info: PoolInfo) -> None:
        """The workers are warm."""
        self._show_build(torch=info.torch_version, numpy=info.numpy_version, device=info.device_kind)
        self._utilization.watch(info.gpu_uuids)

    def tokens_usable(self, usable: bool) -> None:
        """The token file was read, or could not be used."""
        self._tokens_stale.set(not usable)

    def workers_changed(self, *, idle: int, busy: int, workers: int) -> None:
        """So many of all workers are idle now, and so many at a batch."""
        for state, count in (("starting", workers - idle - busy), ("idle", idle), ("busy", busy)):
            self._workers.labels(state).set(count)
        self._workers_ready.set(idle + busy)

    def worker_lost(self, reason: LossReason) -> None:
        """A worker is gone, and another is being started."""
        self._workers_lost.labels(reason).inc()

    def worker_memory(self, place: int, device: str, memory: Memory) -> None:
        """A worker has looked how much memory it uses."""
        kinds = {"resident": memory.resident, "allocated": memory.allocated, "reserved": memory.reserved}
        for kind, size in kinds.items():
            if size is not None:
                self._worker_memory.labels(str(place), device, kind).set(size)
        self._device_used.labels(device).set(memory.device_used)
        self._device_size.labels(device).set(memory.device_size)

    def store_hits(self, count: int) -> None:
        """So many scores that were asked for were in the store."""
        self._series(self._store_scores, "hit").inc(count)

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

    def queue_depth_changed(self, queued: Mapping[Priority, int]) -> None:
        """So many architectures wait now, by priority."""
        for priority, count in queued.items():
            self._series(self._queued, _LABELS[priority]).set(count)

    def waited(self, priority: Priority, seconds: float) -> None:
        """An architecture waited so long for its first batch."""
        self._series(self._wait_seconds, _LABELS[priority]).observe(seconds)

    def batch_started(self, size: int, reason: BatchReason) -> None:
        """A batch went to the pool."""
        self._batch_size.labels(reason).observe(size)

    def batch_ended(self, size: int, seconds: float, report: BatchReport | None) -> None:  # noqa: ARG002
        """A batch has ended."""
        self._batch_seconds.observe(seconds)
        if report:
            for name, spent in report.pass_seconds.items():
                self._compute_seconds.labels(name).inc(spent)
            self._compute_seconds.labels(_REST).inc(
                max(0.0, report.compute_seconds - sum(report.pass_seconds.values()))
            )

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

    def _series(self, metric: M, *labels: str) -> M:
        """The time series of a metric with these labels, for what is counted thousands of times a second.

        It takes a fraction of the time of the metric's own `labels`, which locks and copies. No series ever goes.
        """
        found = self._known_series.get((metric, *labels))
        if found is None:
            found = self._known_series[metric, *labels] = metric.labels(*labels)
        return cast(M, found)

    def _client(self) -> str:
        """The label of who makes the current RPC."""
        caller = CALLER.get()
        if not caller.authenticated:
            return "anonymous"
        if caller.name not in self._clients and len(self._clients) >= _MAX_CLIENTS:
            return "other"
        self._clients.add(caller.name)
        return caller.name

    def _show_build(self, *, torch: str = "", numpy: str = "", device: str = "") -> None:
        python = platform.python_version()
        self._build.info({"version": __version__, "python": python, "torch": torch, "numpy": numpy, "device": device})

    def _begin_at_zero(self) -> None:
        """Has every time series that can be foreseen: one that begins at 1 hides the first of what it counts."""
        priorities = list(_LABELS.values())
        foreseen: list[tuple[Counter | Gauge | Histogram, Sequence[str]]] = [
            (self._queued, priorities),
            (self._wait_seconds, priorities),
            (self._dropped, ("cancelled", "expired")),
            (self._retried, get_args(RetryReason)),
            (self._batch_size, get_args(BatchReason)),
            (self._compute_seconds, [*Pass, _REST]),
            (self._workers, ("starting", "idle", "busy")),
            (self._workers_lost, get_args(LossReason)),
            (self._store_scores, ("hit", "miss", "written", "dropped")),
        ]
        for metric, values in foreseen:
            for value in values:
                metric.labels(value)
        for space, outcome in product(SPACES, ArchitectureOutcome):
            self._architectures.labels(space, outcome.value)
        service = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"]
        for method, code in product(service.methods, _USUAL_CODES):
            self._rpcs.labels(f"{service.full_name}/{method.name}", code.name)


def _bytes_of(store: Path | None) -> int:
    """Size of the store's file and of its log; 0 if they are not there."""
    size = 0
    if store:
        for file in (store, store.with_name(f"{store.name}-wal")):
            try:
                size += file.stat().st_size
            except OSError:
                continue
    return size
