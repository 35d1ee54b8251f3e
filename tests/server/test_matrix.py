"""The matrix: either RPC times whatever can become of it, over real worker processes.

Each cell says exactly what the client is told and what is counted. Afterwards the server holds what it held before:
queue, evaluations in flight, tasks, threads, descriptors, processes and objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from archscore_server.app import Server
from archscore_server.config import Limits, Settings
from archscore_server.pool import PoolObserver
from archscore_server.pool.local import LocalPool
from support import matrix_engine
from support.process import children, descriptors, marked, server_process
from support.serving import details, eventually, many, one, reason, results_of, retry_seconds, status_of, violations

#: A guard against hanging.
TIMEOUT = 60.0

#: Seconds after which a silent worker is taken for hung.
SILENCE = 1.0

#: What a request asks about: a unary one the first, a stream all. Others are asked about beside it.
ASKED = (6111, 1462, 13714)
OTHERS = (81, 1459, 99, 100)

#: Requests that go before: libraries load and threads start, and the server learns that evaluations take moments.
WARM_UP = 24

#: Counters that are compared, without their prefix.
COUNTED = ("architectures", "rpcs", "merged", "retried", "dropped", "workers_lost")

#: Objects that live only as long as a request or a batch.
SHORT_LIVED = {"Work", "Waiter", "Deadline", "Group", "Batch", "Result", "_Progress", "_Pending", "_Job", "Share"}

METHOD = "archscore.v1.ScoringService/"


class Rpc:
    """One of the two RPCs.

    Attributes:
        name: of the method.
        asked: indices of the cells that it asks about.
    """

    def __init__(self, name: str, asked: tuple[int, ...]) -> None:
        self.name = name
        self.asked = asked

    @property
    def unary(self) -> bool:
        return len(self.asked) == 1

    def call(self, stub: Any, encodings: list[str] | None = None, timeout: float = TIMEOUT, **fields: Any) -> Any:
        """Begins a call, about other encodings than its own if they are given."""
        encodings = encodings or [encoding(index) for index in self.asked]
        if self.unary:
            return stub.ScoreArchitecture(one(encodings[0], **fields), timeout=timeout)
        return stub.ScoreArchitectures(many(encodings, **fields), timeout=timeout)

    async def items(self, call: Any) -> list[scoring_pb2.Evaluation | status_pb2.Status]:
        """What became of each architecture, in order, of a call that ends well."""
        if self.unary:
            return [(await call).evaluation]
        results = await results_of(call)
        assert sorted(results) == list(range(len(self.asked)))
        return [getattr(results[index], results[index].WhichOneof("result")) for index in sorted(results)]


UNARY = Rpc("ScoreArchitecture", ASKED[:1])
STREAM = Rpc("ScoreArchitectures", ASKED)


@dataclass(frozen=True)
class Rest:
    """What is held while nothing goes on."""

    queued: int
    in_flight: int
    clients: int
    tasks: int
    threads: int
    descriptors: int
    workers: int
    objects: Counter[str]


@dataclass
class Running:
    """A server over one real worker process, and a channel to it."""

    server: Server
    stub: Any
    directory: Path
    strangers: set[int]
    before: Counter[str] = field(default_factory=Counter)

    @property
    def workers(self) -> list[int]:
        return [pid for pid in children(os.getpid()) if pid not in self.strangers]

    def hold(self) -> None:
        """Batches do not go on from now on."""
        (self.directory / "hold").touch()

    def release(self) -> None:
        """They do."""
        (self.directory / "hold").unlink()

    async def waits(self, *, queued: int, running: int) -> None:
        """Returns when so many architectures wait, and so many run."""
        scheduler = self.server._scheduler
        await eventually(lambda: (scheduler.queued, scheduler.in_flight) == (queued, queued + running))

    async def last_words(self, index: int) -> None:
        """Answers one more request: the slots of the scheduler keep their last batch until the next one."""
        assert_scored(await UNARY.items(UNARY.call(self.stub, [encoding(index)])), (index,))

    async def settled(self) -> Rest:
        """What is held once that changes no more."""
        rest = self.rest()
        while True:
            await asyncio.sleep(0.1)
            earlier, rest = rest, self.rest()
            if rest == earlier:
                return rest

    def rest(self) -> Rest:
        return Rest(
            queued=self.server._scheduler.queued,
            in_flight=self.server._scheduler.in_flight,
            clients=len(self.server._scoring._in_flight),
            tasks=len(asyncio.all_tasks()),
            threads=threading.active_count(),
            descriptors=len(descriptors(os.getpid())),
            workers=len(self.workers),
            objects=short_lived(),
        )

    def counted(self) -> dict[str, int]:
        """What was counted since the warm-up: by name and labels."""
        now = self._counters()
        now.subtract(self.before)
        return {name: round(value) for name, value in now.items() if value}

    def begin(self) -> None:
        """Counts from here on."""
        self.before = self._counters()

    def _counters(self) -> Counter[str]:
        counters: Counter[str] = Counter()
        for family in self.server.metrics.registry.collect():
            name = family.name.removeprefix("archscore_")
            for sample in family.samples:
                labels = [value for label, value in sample.labels.items() if label not in ("space", "le")]
                key = " ".join([name, *(label.removeprefix(METHOD) for label in labels)])
                if name in COUNTED and sample.name.endswith("_total"):
                    counters[key] += int(sample.value)  # of all search spaces
                if name == "batch_size" and sample.name.endswith("_count"):
                    counters["batches"] += int(sample.value)
        return counters


def short_lived() -> Counter[str]:
    """Objects that there are of those that should not stay, by type."""
    gc.collect()
    kinds = map(type, gc.get_objects())
    ours = (kind for kind in kinds if kind.__name__ in SHORT_LIVED and kind.__module__.startswith("archscore_server."))
    return Counter(kind.__name__ for kind in ours)


async def comes_to(expected: object, look: Callable[[], object]) -> None:
    """Waits until something is as expected; says what it is instead if it stays so."""
    with contextlib.suppress(TimeoutError):
        await eventually(lambda: look() == expected)
    assert look() == expected


def encoding(index: int) -> str:
    return nasbench201.from_index(index).format()


@contextlib.asynccontextmanager
async def serving(directory: Path, max_queued: int = 100) -> AsyncIterator[Running]:
    """A server that has answered a few requests, and holds nothing of them."""
    settings = Settings(
        port=0, metrics_port=0, batch_delay=0.0, limits=Limits(max_queued_architectures=max_queued, max_bytes=2**40)
    )

    def make_pool(_: Settings, observer: PoolObserver) -> LocalPool:
        return LocalPool(
            device="cpu",
            workers=1,
            threads=1,
            load=matrix_engine.MatrixEngine,
            heartbeat_timeout=SILENCE,
            observer=observer,
        )

    strangers = set(children(os.getpid()))
    server = Server(settings, make_pool)
    try:
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            running = Running(server, scoring_pb2_grpc.ScoringServiceStub(channel), directory, strangers)
            for index in range(WARM_UP):
                rpc = UNARY if index % 2 else STREAM
                await rpc.items(rpc.call(running.stub, [encoding(1000 + index)] * len(rpc.asked)))
            yield running
    finally:
        await server.stop()


@pytest.fixture(scope="module", autouse=True)
def _others_are_not_looked_at() -> Iterator[None]:
    """What all modules of tests hold is left out of collections and counts, which are many here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the engine's orders."""
    monkeypatch.setenv(matrix_engine.VARIABLE, str(tmp_path))
    # pytest keeps what is logged, and with an error all that its traceback leads to.
    monkeypatch.setattr(logging.root.manager, "disable", logging.ERROR)
    return tmp_path


def assert_scored(items: list[Any], indices: tuple[int, ...]) -> None:
    assert [[score.value for score in item.scores] for item in items] == [[float(index)] for index in indices]


# What becomes of a call. Each leaves the server as it is to be found at rest, and returns what was counted.

Counted = dict[str, int]
Scenario = Callable[[Running, Rpc], Awaitable[Counted]]


def ended(rpc: Rpc, code: str, count: int = 1) -> Counted:
    return {f"rpcs {rpc.name} {code}": count}


async def ok(running: Running, rpc: Rpc) -> Counted:
    assert_scored(await rpc.items(rpc.call(running.stub)), rpc.asked)
    return {**ended(rpc, "OK"), "architectures ok": len(rpc.asked), "batches": 1}


async def invalid(running: Running, rpc: Rpc) -> Counted:
    call = rpc.call(running.stub, ["garbage", *map(encoding, rpc.asked[1:])])
    if rpc.unary:
        status = await status_of(call)
        assert list(violations(status)) == ["architecture.encoding"]
    else:
        status, *items = await rpc.items(call)
        assert list(violations(status)) == ["architectures[0].encoding"]
        assert_scored(items, rpc.asked[1:])
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert set(details(status)) == {error_details_pb2.BadRequest}
    if rpc.unary:
        return {**ended(rpc, "INVALID_ARGUMENT"), "architectures invalid": 1}
    return {**ended(rpc, "OK"), "architectures invalid": 1, "architectures ok": len(items), "batches": 1}


async def invalid_request(running: Running, rpc: Rpc) -> Counted:
    status = await status_of(rpc.call(running.stub, proxies=["no_such"]))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert list(violations(status)) == ["proxies[0]"]
    assert set(details(status)) == {error_details_pb2.BadRequest}
    return ended(rpc, "INVALID_ARGUMENT")


async def merged(running: Running, rpc: Rpc) -> Counted:
    running.hold()
    count = len(rpc.asked)
    calls = [asyncio.create_task(rpc.items(rpc.call(running.stub))) for _ in range(2)]
    await eventually(lambda: running.counted().get("merged") == count)
    await running.waits(queued=0, running=count)
    running.release()
    for call in calls:
        assert_scored(await call, rpc.asked)
    return {**ended(rpc, "OK", 2), "architectures ok": 2 * count, "merged": count, "batches": 1}


async def cancelled_while_it_waits(running: Running, rpc: Rpc) -> Counted:
    async with blocked(running):
        call = rpc.call(running.stub)
        reading = asyncio.create_task(rpc.items(call))
        await running.waits(queued=len(rpc.asked), running=1)
        call.cancel()
        await asyncio.wait([reading])
        assert await call.code() is grpc.StatusCode.CANCELLED
        await running.waits(queued=0, running=1)
    return {
        **of_blocker(),
        **ended(rpc, "CANCELLED"),
        "architectures cancelled": len(rpc.asked),
        "dropped cancelled": len(rpc.asked),
    }


async def cancelled_while_it_runs(running: Running, rpc: Rpc) -> Counted:
    running.hold()
    call = rpc.call(running.stub)
    reading = asyncio.create_task(rpc.items(call))
    await running.waits(queued=0, running=len(rpc.asked))
    call.cancel()
    await asyncio.wait([reading])
    assert await call.code() is grpc.StatusCode.CANCELLED
    await eventually(lambda: running.counted().get("architectures cancelled") == len(rpc.asked))
    await running.waits(queued=0, running=len(rpc.asked))
    running.release()
    return {**ended(rpc, "CANCELLED"), "architectures cancelled": len(rpc.asked), "batches": 1}


async def late_while_it_waits(running: Running, rpc: Rpc) -> Counted:
    async with blocked(running):
        ending = await late(running, rpc)
        await running.waits(queued=0, running=1)
    return {**of_blocker(), **ending, "architectures expired": len(rpc.asked), "dropped expired": len(rpc.asked)}


async def late_while_it_runs(running: Running, rpc: Rpc) -> Counted:
    running.hold()
    ending = await late(running, rpc)
    await running.waits(queued=0, running=len(rpc.asked))
    running.release()
    return {**ending, "architectures expired": len(rpc.asked), "batches": 1}


async def late(running: Running, rpc: Rpc) -> Counted:
    """A call whose deadline passes. Client and server both watch it: whichever is first, it ends in the same way."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.items(rpc.call(running.stub, timeout=0.5))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: running.counted().get("architectures expired") == len(rpc.asked))
    return ended(rpc, "DEADLINE_EXCEEDED")


async def queue_full(running: Running, rpc: Rpc) -> Counted:
    async with blocked(running):
        filler = running.stub.ScoreArchitectures(many(list(map(encoding, OTHERS[1:]))), timeout=TIMEOUT)
        filled = asyncio.create_task(results_of(filler))
        await running.waits(queued=3, running=1)
        call = rpc.call(running.stub)
        status = await status_of(call)
        assert status.code == code_pb2.RESOURCE_EXHAUSTED
        assert reason(status) == "QUEUE_FULL"
        assert set(details(status)) == {error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo}
        assert await pushback(call) == math.ceil(retry_seconds(status) * 1000)
        await running.waits(queued=3, running=1)
    assert len(await filled) == 3
    return {
        **add(of_blocker(), ended(STREAM, "OK"), ended(rpc, "RESOURCE_EXHAUSTED")),
        "architectures ok": 4,
        "architectures refused": len(rpc.asked),
        "batches": 2,
    }


async def worker_killed(running: Running, rpc: Rpc) -> Counted:
    return {**await harmed(running, rpc, signal.SIGKILL), "workers_lost died": 1}


async def worker_hung(running: Running, rpc: Rpc) -> Counted:
    return {**await harmed(running, rpc, signal.SIGSTOP), "workers_lost hung": 1}


async def harmed(running: Running, rpc: Rpc, harm: signal.Signals) -> Counted:
    running.hold()
    call = asyncio.create_task(rpc.items(rpc.call(running.stub)))
    await running.waits(queued=0, running=len(rpc.asked))
    [worker] = running.workers
    os.kill(worker, harm)
    running.release()
    assert_scored(await call, rpc.asked)
    return {
        **ended(rpc, "OK"),
        "architectures ok": len(rpc.asked),
        "retried worker_lost": len(rpc.asked),
        "batches": 2 if rpc.unary else 3,
    }


async def always_deadly(running: Running, rpc: Rpc) -> Counted:
    await given_up(running, rpc, "deadly")
    if rpc.unary:
        return {
            **ended(rpc, "INTERNAL"),
            "architectures failed": 1,
            "retried worker_lost": 2,
            "workers_lost died": 3,
            "batches": 3,
        }
    # All three; the half that it is in; it alone, three times.
    return {
        **ended(rpc, "OK"),
        "architectures failed": 1,
        "architectures ok": 2,
        "retried worker_lost": 3 + 2 + 2,
        "workers_lost died": 1 + 1 + 3,
        "batches": 1 + 2 + 4,
    }


async def always_raising(running: Running, rpc: Rpc) -> Counted:
    await given_up(running, rpc, "raising")
    if rpc.unary:
        return {**ended(rpc, "INTERNAL"), "architectures failed": 1, "batches": 1}
    return {
        **ended(rpc, "OK"),
        "architectures failed": 1,
        "architectures ok": 2,
        "retried batch_failed": 3 + 2,
        "batches": 1 + 2 + 2,
    }


async def given_up(running: Running, rpc: Rpc, harm: str) -> None:
    """The first architecture fails, and no other."""
    (running.directory / harm).write_text(str(ASKED[0]))
    call = rpc.call(running.stub)
    if rpc.unary:
        status = await status_of(call)
    else:
        status, *items = await rpc.items(call)
        assert_scored(items, rpc.asked[1:])
    assert status.code == code_pb2.INTERNAL
    assert reason(status) == "ARCHITECTURE_FAILED"
    assert set(details(status)) == {error_details_pb2.ErrorInfo}


async def new_while_the_server_drains(running: Running, rpc: Rpc) -> Counted:
    async with blocked(running):
        drained = asyncio.create_task(running.server.drain())
        await asyncio.sleep(0.01)
        call = rpc.call(running.stub)
        status = await status_of(call)
        assert_draining(status)
        assert await pushback(call) == 1000
        assert not drained.done()
    await drained
    return add(of_blocker(), ended(rpc, "UNAVAILABLE"))


async def running_while_the_server_stops(running: Running, rpc: Rpc) -> Counted:
    running.hold()
    call = rpc.call(running.stub)
    answer = asyncio.create_task(status_of(call) if rpc.unary else rpc.items(call))
    await running.waits(queued=0, running=len(rpc.asked))
    await running.server.stop()
    if rpc.unary:
        assert_draining(await answer)
        assert await pushback(call) == 1000
    else:
        for status in await answer:
            assert_draining(status)
    return {
        **ended(rpc, "UNAVAILABLE" if rpc.unary else "OK"),
        "architectures refused": len(rpc.asked),
        "batches": 1,
    }


def assert_draining(status: status_pb2.Status) -> None:
    assert (status.code, reason(status), retry_seconds(status)) == (code_pb2.UNAVAILABLE, "DRAINING", 1)
    assert set(details(status)) == {error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo}


async def pushback(call: Any) -> int:
    return int(dict(await call.trailing_metadata())["grpc-retry-pushback-ms"])


@contextlib.asynccontextmanager
async def blocked(running: Running) -> AsyncIterator[None]:
    """The one worker is busy with another request meanwhile, which is answered afterwards."""
    running.hold()
    call = asyncio.create_task(UNARY.items(UNARY.call(running.stub, [encoding(OTHERS[0])])))
    await running.waits(queued=0, running=1)
    yield
    running.release()
    assert_scored(await call, OTHERS[:1])


def of_blocker() -> Counted:
    """What is counted of the other request."""
    return {**ended(UNARY, "OK"), "architectures ok": 1, "batches": 1}


def add(*parts: Counted) -> Counted:
    return dict(sum((Counter(part) for part in parts), Counter()))


SCENARIOS: tuple[Scenario, ...] = (
    ok,
    invalid,
    invalid_request,
    merged,
    cancelled_while_it_waits,
    cancelled_while_it_runs,
    late_while_it_waits,
    late_while_it_runs,
    queue_full,
    worker_killed,
    worker_hung,
    always_deadly,
    always_raising,
)


@pytest.mark.parametrize("rpc", [UNARY, STREAM], ids=["unary", "stream"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_matrix(directory: Path, scenario: Scenario, rpc: Rpc) -> None:
    async with serving(directory, max_queued=3) as running:
        await running.last_words(2000)
        before = await running.settled()
        running.begin()
        expected = await scenario(running, rpc)
        await comes_to(expected, running.counted)
        await running.last_words(2001)
        await comes_to(before, running.rest)


@pytest.mark.parametrize("rpc", [UNARY, STREAM], ids=["unary", "stream"])
@pytest.mark.parametrize(
    "scenario", [new_while_the_server_drains, running_while_the_server_stops], ids=lambda scenario: scenario.__name__
)
async def test_a_server_that_stops(directory: Path, scenario: Scenario, rpc: Rpc) -> None:
    # What others hold: modules of tests have batches among their constants.
    tasks, links, others = len(asyncio.all_tasks()), Counter(descriptors(os.getpid())), short_lived()
    async with serving(directory) as running:
        running.begin()
        expected = await scenario(running, rpc)
        await comes_to(expected, running.counted)
        assert (running.rest().queued, running.rest().in_flight) == (0, 0)
    assert not running.workers
    del running  # and with it the tasks that ended, which keep what they were at
    await comes_to(Counter(), lambda: short_lived() - others)
    await comes_to(tasks, lambda: len(asyncio.all_tasks()))
    await comes_to(Counter(), lambda: Counter(descriptors(os.getpid())) - links)


@pytest.mark.slow
@pytest.mark.parametrize("rpc", [UNARY, STREAM], ids=["unary", "stream"])
async def test_a_server_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rpc: Rpc) -> None:
    """The client is told UNAVAILABLE, without a word of ours, and no worker outlives its front end."""
    faults = Path(__file__).parents[1] / "faults"
    path = os.pathsep.join([str(faults), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "ARCHSCORE_FAULTS": str(tmp_path)}
    with server_process("--device", "cpu", "--workers", "1", "--threads", "1", environment=environment) as server:
        assert len(marked("ARCHSCORE_FAULTS", str(tmp_path))) == 2
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            call = rpc.call(stub, proxies=["fault_hang"])
            answer = asyncio.create_task(rpc.items(call))
            await asyncio.sleep(0.5)
            assert not answer.done()
            server.process.kill()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answer
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata() or ())
        await eventually(lambda: not marked("ARCHSCORE_FAULTS", str(tmp_path)))
