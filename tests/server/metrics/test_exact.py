"""After a scripted load over a real worker every counter and every histogram has exactly the count that it should."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from archscore_server.app import Server
from archscore_server.config import Limits, Settings
from archscore_server.pool import PoolObserver
from archscore_server.pool.local import LocalPool
from support import matrix_engine
from support.process import children
from support.serving import eventually, many, one, results_of, status_of

TIMEOUT = 60.0
SERVICE = "archscore.v1.ScoringService"
DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
RAISING = 4711

#: Families whose values are not those of the script: how long things took, how much memory there is, what runs here.
#: What counts them is compared all the same, but for the first two.
NOT_COUNTED = {
    "archscore_process_cpu_seconds",
    "archscore_compute_seconds",
    "archscore_build",
    "archscore_device_memory_size_bytes",
    "archscore_device_memory_used_bytes",
    "archscore_device_utilization_ratio",
    "archscore_process_max_fds",
    "archscore_process_open_fds",
    "archscore_process_resident_memory_bytes",
    "archscore_process_start_time_seconds",
    "archscore_process_virtual_memory_bytes",
    "archscore_store_file_bytes",
    "archscore_worker_memory_bytes",
}

ARCHITECTURES = {
    "ok": 4 + 2 + 1 + 6 + 1 + 1 + 1 + 1,
    "invalid": 1,
    "degenerate": 1,
    "refused": 1,
    "cancelled": 1,
    "expired": 1,
    "failed": 1,
}
RPCS = {
    ("ScoreArchitectures", "OK"): 3,
    ("ScoreArchitecture", "OK"): 6,
    ("ScoreArchitecture", "RESOURCE_EXHAUSTED"): 1,
    ("ScoreArchitecture", "CANCELLED"): 1,
    ("ScoreArchitecture", "DEADLINE_EXCEEDED"): 1,
    ("ScoreArchitecture", "INVALID_ARGUMENT"): 1,
    ("ListProxies", "OK"): 1,
}
#: Sizes of batches by why they started.
BATCHES = {"full": [4], "waited": [3, 1, 2, 1, 1, 2, 1], "retry": [1, 1, 1]}
#: Architectures of batches that ended well: of the two that the engine raised on, one, alone.
COMPUTED = 3 + 1 + 6 + 1 + 1 + 1 + 1


def encoding(index: int) -> str:
    return nasbench201.from_index(index).format()


class Script:
    """Does what is counted, one thing after another."""

    def __init__(self, server: Server, channel: grpc.aio.Channel, directory: Path, strangers: set[int]) -> None:
        self.server = server
        self.channel = channel
        self.stub: Any = scoring_pb2_grpc.ScoringServiceStub(channel)
        self.directory = directory
        self.strangers = strangers

    async def run(self) -> None:
        await self.ok_invalid_degenerate_and_merged()
        await self.stored()
        await self.refused()
        await self.cancelled()
        await self.expired()
        await self.retried_because_the_engine_raised()
        await self.retried_because_the_worker_died()
        await status_of(self.unary(1, proxies=["no_such"]))
        await self.stub.ListProxies(scoring_pb2.ListProxiesRequest(), timeout=TIMEOUT)
        with pytest.raises(grpc.aio.AioRpcError):
            await self.channel.unary_unary(f"/{SERVICE}/NoSuch")(b"", timeout=TIMEOUT)

    async def ok_invalid_degenerate_and_merged(self) -> None:
        encodings = [*map(encoding, (6111, 1462, 13714, 6111)), "garbage", DISCONNECTED]
        priority = scoring_pb2.PRIORITY_BULK
        call = self.stub.ScoreArchitectures(many(encodings, ["tcet", "parameters"], priority=priority), timeout=TIMEOUT)
        assert len(await results_of(call)) == 6

    async def stored(self) -> None:
        for _ in range(2):
            response = await self.unary(6111)
            assert response.evaluation.scores[0].stored

    async def refused(self) -> None:
        async with self.blocked(1):
            priority = scoring_pb2.PRIORITY_INTERACTIVE
            request = many(list(map(encoding, (101, 102, 103, 201, 202, 203))), priority=priority)
            filled = asyncio.create_task(results_of(self.stub.ScoreArchitectures(request, timeout=TIMEOUT)))
            await self.waits(queued=6)
            await status_of(self.unary(114))
        assert len(await filled) == 6

    async def cancelled(self) -> None:
        async with self.blocked(2):
            call = self.unary(115)
            await self.waits(queued=1)
            call.cancel()
            await self.waits(queued=0)

    async def expired(self) -> None:
        async with self.blocked(3):
            call = self.stub.ScoreArchitecture(one(encoding(106)), timeout=0.5)
            with pytest.raises(grpc.aio.AioRpcError):
                await call
            await self.waits(queued=0)

    async def retried_because_the_engine_raised(self) -> None:
        (self.directory / "raising").write_text(str(RAISING))
        results = await results_of(
            self.stub.ScoreArchitectures(many([encoding(RAISING), encoding(107)]), timeout=TIMEOUT)
        )
        assert results[0].error.code  # type: ignore[attr-defined]

    async def retried_because_the_worker_died(self) -> None:
        self.hold()
        call = self.unary(118)
        running = asyncio.ensure_future(call)
        await self.waits(queued=0, in_flight=1)
        [worker] = set(children(os.getpid())) - self.strangers
        os.kill(worker, signal.SIGKILL)
        self.release()
        await running

    def unary(self, index: int, **fields: Any) -> Any:
        return self.stub.ScoreArchitecture(one(encoding(index), **fields), timeout=TIMEOUT)

    @contextlib.asynccontextmanager
    async def blocked(self, index: int) -> AsyncIterator[None]:
        """The worker is busy with one architecture meanwhile."""
        self.hold()
        call = asyncio.ensure_future(self.unary(index))
        await self.waits(queued=0, in_flight=1)
        yield
        self.release()
        await call

    def hold(self) -> None:
        (self.directory / "hold").touch()

    def release(self) -> None:
        (self.directory / "hold").unlink()

    async def waits(self, *, queued: int, in_flight: int | None = None) -> None:
        scheduler = self.server._scheduler
        await eventually(lambda: scheduler.queued == queued and in_flight in (None, scheduler.in_flight))


def expected() -> dict[tuple[str, ...], float]:
    """Every counter, histogram and gauge that is not zero, by name and label values in the order of the labels."""
    rpcs = {(f"{SERVICE}/{method}", code): count for (method, code), count in RPCS.items()}
    rpcs["other", "UNIMPLEMENTED"] = 1
    params = {**ARCHITECTURES, "ok": 5, "invalid": 1}
    return {
        **{("archscore_architectures_total", "nasbench201", name): count for name, count in ARCHITECTURES.items()},
        **{("archscore_scores_total", "nasbench201", "tcet", name): count for name, count in ARCHITECTURES.items()},
        **{("archscore_scores_total", "nasbench201", "parameters", name): params[name] for name in ("ok", "invalid")},
        ("archscore_client_architectures_total", "anonymous"): sum(ARCHITECTURES.values()),
        **{("archscore_rpcs_total", *labels): count for labels, count in rpcs.items()},
        **{("archscore_rpc_seconds_count", *labels): count for labels, count in rpcs.items()},
        ("archscore_merged_total",): 1,
        ("archscore_queue_limit_architectures",): 6,
        ("archscore_queue_wait_seconds_count", "bulk"): 3,
        ("archscore_queue_wait_seconds_count", "default"): 1 + 1 + 1 + 2 + 1,
        ("archscore_queue_wait_seconds_count", "interactive"): 6,
        ("archscore_dropped_total", "cancelled"): 1,
        ("archscore_dropped_total", "expired"): 1,
        ("archscore_retried_total", "batch_failed"): 2,
        ("archscore_retried_total", "worker_lost"): 1,
        **{("archscore_batch_size_count", reason): len(sizes) for reason, sizes in BATCHES.items()},
        **{("archscore_batch_size_sum", reason): sum(sizes) for reason, sizes in BATCHES.items()},
        ("archscore_batch_seconds_count",): sum(map(len, BATCHES.values())),
        ("archscore_workers", "idle"): 1,
        ("archscore_workers_ready",): 1,
        ("archscore_workers_lost_total", "died"): 1,
        ("archscore_store_scores_total", "hit"): 2,
        ("archscore_store_scores_total", "miss"): 4 + 1 + 6 + 1 + 1 + 1 + 1 + 1 + 2 + 1,
        ("archscore_store_scores_total", "written"): 3 + 1 + 6 + 1 + 1 + 1 + 1,
        ("archscore_store_entries",): 3 + 1 + 6 + 1 + 1 + 1 + 1,
        ("archscore_store_up",): 1,
    }


def counted(server: Server) -> dict[tuple[str, ...], float]:
    """What there is of that."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in server.metrics.registry.collect()
        if family.name not in NOT_COUNTED
        for sample in family.samples
        if sample.value and not sample.name.endswith("_bucket")
        # how long something took
        if not sample.name.endswith("_seconds_sum")
    }


@pytest.fixture
async def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Script]:
    monkeypatch.setenv(matrix_engine.VARIABLE, str(tmp_path))
    limits = Limits(max_queued_architectures=6, max_bytes=2**40)
    # Batches of a size that does not depend on how quickly the first of them ended.
    settings = Settings(port=0, metrics_port=0, batch_delay=0.0, max_batch=4, limits=limits, store=tmp_path / "scores")

    def make_pool(_: Settings, observer: PoolObserver) -> LocalPool:
        return LocalPool(device="cpu", workers=1, threads=1, load=matrix_engine.MatrixEngine, observer=observer)

    strangers = set(children(os.getpid()))
    server = Server(settings, make_pool)
    try:
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Script(server, channel, tmp_path, strangers)
    finally:
        await server.stop()


async def test_every_count_is_exact(script: Script) -> None:
    server = script.server
    await script.run()
    # What is told a moment after the answer: the end of a batch, what the store has written, the calls that left.
    with contextlib.suppress(TimeoutError):
        await eventually(lambda: counted(server) == expected())
    assert counted(server) == expected()

    families = {family.name: family for family in server.metrics.registry.collect()}
    compared = {name for name in families if name not in NOT_COUNTED}
    of_expected = {name for name in compared for key in expected() if key[0].startswith(name)}
    at_zero = {"archscore_queued_architectures", "archscore_store_write_failures", "archscore_tokens_stale"}
    assert of_expected | at_zero == compared, "a metric is missing in the script, or from the page"
    assert families.keys() >= NOT_COUNTED

    compute = {sample.labels["pass"]: sample.value for sample in families["archscore_compute_seconds"].samples}
    assert compute.pop("train") == matrix_engine.PASS_SECONDS * COMPUTED
    assert compute.pop("other") > 0
    assert not any(compute.values())
    for name in ("archscore_rpc_seconds", "archscore_queue_wait_seconds", "archscore_batch_seconds"):
        for sample in families[name].samples:
            assert sample.value >= 0
