"""A real server on a free port, over a pool that evaluates nothing."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from archscore_server.app import Server
from archscore_server.config import Limits, Settings
from archscore_server.engine import ArchitectureTooLargeError, Evaluation, Outcome, Score
from archscore_server.pool import Batch, BatchFailedError, BatchReport, DeviceInfo, OnResults, PoolInfo, PoolObserver

TIMEOUT = 10.0
COMPUTE_SECONDS = 0.25


def fake_value(encoding: str, proxy: str) -> float:
    """What the puppet says that a proxy gives for a canonical encoding."""
    return zlib.crc32(f"{encoding} {proxy}".encode()) / 2**32


class PuppetPool:
    """Scores follow from names. Tests hold it back through `warm` and `gate`, and poison architectures."""

    slots = 2
    max_batch = max_short_batch = 8
    tf32 = False

    def __init__(self, observer: PoolObserver) -> None:
        self.observer = observer
        self.warm = asyncio.Event()
        self.gate = asyncio.Event()
        self.warm.set()
        self.gate.set()
        self.batches: list[Batch] = []
        self.poisoned: set[str] = set()
        self.non_finite: set[str] = set()
        self.too_large: dict[str, ArchitectureTooLargeError] = {}
        self.stopped = False
        self._started = False

    @property
    def info(self) -> PoolInfo:
        if not self._started:
            raise RuntimeError("not started")
        devices = (DeviceInfo("cpu", "puppet", self.slots, 3, 0),)
        return PoolInfo("9.9.9+puppet", "8.8.8", devices, tf32=self.tf32)

    @property
    def evaluated(self) -> list[str]:
        return [architecture.format() for batch in self.batches for architecture in batch.architectures]

    async def start(self) -> None:
        await self.warm.wait()
        self._started = True
        self.workers_changed(self.slots)

    async def run(self, batch: Batch, on_results: OnResults) -> BatchReport:
        self.batches.append(batch)
        await self.gate.wait()
        if any(architecture.format() in self.poisoned for architecture in batch.architectures):
            raise BatchFailedError("secret words of the engine")
        for index, architecture in enumerate(batch.architectures):
            encoding = architecture.format()
            on_results([(index, self.too_large.get(encoding) or self._evaluate(encoding, batch))])
        return BatchReport(COMPUTE_SECONDS)

    async def stop(self) -> None:
        self.stopped = True
        self.workers_changed(0)

    def workers_changed(self, ready: int) -> None:
        """So many workers are ready from now on."""
        self.observer.workers_changed(idle=ready, busy=0, workers=self.slots)

    def _evaluate(self, encoding: str, batch: Batch) -> Evaluation:
        error = 0.5 if batch.config.repeats > 1 else None
        scores = {name: Score(Outcome.OK, fake_value(encoding, name), error) for name in batch.proxies}
        if encoding in self.non_finite:
            scores = dict.fromkeys(scores, Score(Outcome.NON_FINITE))
        return Evaluation(scores)


class Serving:
    """A running server with a channel to it."""

    def __init__(self, server: Server, pool: PuppetPool, channel: grpc.aio.Channel, start: asyncio.Task[None]) -> None:
        self.server = server
        self.pool = pool
        self.channel = channel
        self.start = start
        self.stub = scoring_pb2_grpc.ScoringServiceStub(channel)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels, and others."""
        samples = (sample for family in self.server.metrics.registry.collect() for sample in family.samples)
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )


@contextlib.asynccontextmanager
async def serving(
    *,
    warm: bool = True,
    limits: Limits | None = None,
    open_channel: Callable[[str], grpc.aio.Channel] = grpc.aio.insecure_channel,
    **options: object,
) -> AsyncIterator[Serving]:
    """Runs a server. `open_channel` makes the channel to its address; options are those of Settings."""
    pools: list[PuppetPool] = []

    def make_pool(settings: Settings, observer: PoolObserver) -> PuppetPool:
        pools.append(PuppetPool(observer))
        return pools[0]

    options = {"metrics_port": 0, **options}
    settings = Settings(port=0, batch_delay=0.0, limits=limits or Limits(), **options)
    server = Server(settings, make_pool)
    if not warm:
        pools[0].warm.clear()
    start = asyncio.create_task(server.start())
    try:
        await asyncio.wait({start}, timeout=None if warm else 0.05)
        if start.done():
            await start
        async with open_channel(f"127.0.0.1:{server.port}") as channel:
            yield Serving(server, pools[0], channel, start)
    finally:
        pools[0].warm.set()
        await start
        await server.stop()


def architecture(encoding: str, space: str = "nasbench201") -> scoring_pb2.Architecture:
    return scoring_pb2.Architecture(space=space, encoding=encoding)


def many(encodings: Sequence[str], proxies: Sequence[str] = ("tcet",), **fields: object) -> object:
    """A request to score many cells."""
    architectures = [architecture(encoding) for encoding in encodings]
    return scoring_pb2.ScoreArchitecturesRequest(architectures=architectures, proxies=proxies, **fields)


def one(encoding: str, proxies: Sequence[str] = ("tcet",), **fields: object) -> scoring_pb2.ScoreArchitectureRequest:
    """A request to score one cell."""
    return scoring_pb2.ScoreArchitectureRequest(architecture=architecture(encoding), proxies=proxies, **fields)


async def results_of(call: AsyncIterator[scoring_pb2.ScoreArchitecturesResponse]) -> dict[int, object]:
    """The results of a stream by index; each index comes once."""
    results: dict[int, object] = {}
    async for response in call:
        assert response.results
        for result in response.results:
            assert result.index not in results
            results[result.index] = result
    return results


def details(status: status_pb2.Status) -> dict[type, object]:
    """The details of a status by type, each at most once."""
    kinds = (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)
    found: dict[type, object] = {}
    for packed in status.details:
        [kind] = [kind for kind in kinds if packed.Is(kind.DESCRIPTOR)]
        assert kind not in found
        found[kind] = kind()
        packed.Unpack(found[kind])
    return found


async def status_of(call: object) -> status_pb2.Status:
    """The rich status of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (_consume(call) if hasattr(call, "read") else call)
    status = rpc_status.from_call(_Ended(caught.value))
    assert status is not None, caught.value
    return status


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits until something that no event tells of is so."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def _consume(call: grpc.aio.UnaryStreamCall) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


class _Ended:
    """An error of grpc.aio, as grpc_status reads calls."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str | None:
        return self._error.details()

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return tuple(self._error.trailing_metadata())


def violations(status: status_pb2.Status) -> dict[str, str]:
    """Descriptions of the field violations of a status, by field."""
    bad_request = details(status)[error_details_pb2.BadRequest]
    fields = {violation.field: violation.description for violation in bad_request.field_violations}
    assert len(fields) == len(bad_request.field_violations)
    return fields


def reason(status: status_pb2.Status) -> str:
    """The reason of the ErrorInfo of a status."""
    info = details(status)[error_details_pb2.ErrorInfo]
    assert info.domain == "archscore"
    return info.reason


def retry_seconds(status: status_pb2.Status) -> float:
    """What the RetryInfo of a status asks for."""
    return details(status)[error_details_pb2.RetryInfo].retry_delay.ToNanoseconds() / 1e9
