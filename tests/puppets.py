"""Stand-ins that tests pull the strings of: a clock, a pool, and an engine for worker processes that needs no torch."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from archscore.spaces import Architecture, nasbench201
from archscore_server.engine import ArchitectureTooLargeError, Evaluation, EvaluationConfig, Outcome, Score
from archscore_server.pool import (
    Batch,
    BatchFailedError,
    BatchReport,
    DeviceInfo,
    Memory,
    PoolInfo,
    WorkerLostError,
)
from archscore_server.pool._base import OnResults
from archscore_server.pool._messages import Hello

#: Seconds that a puppet takes for each result of a batch that is to be slow.
SLOW = 0.4


async def settle() -> None:
    """Lets the event loop run whatever can run now."""
    for _ in range(20):
        await asyncio.sleep(0)


class Clock:
    """Seconds that pass only when told; timers of the running event loop go by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        asyncio.get_running_loop().time = self  # type: ignore[method-assign]

    def __call__(self) -> float:
        return self.now

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        await settle()


def cell(index: int) -> nasbench201.Cell:
    return nasbench201.from_index(index)


def evaluation_of(architecture: Architecture) -> Evaluation:
    """What puppets make of an architecture: its index as the score."""
    assert isinstance(architecture, nasbench201.Cell)
    return Evaluation({"tcet": Score(Outcome.OK, float(architecture.index))})


@dataclass(eq=False)
class Run:
    """A batch that a puppet pool was given, waiting for the test to decide what becomes of it."""

    batch: Batch
    on_results: OnResults
    reported: int = 0
    ending: asyncio.Future[BatchReport] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def indices(self) -> list[int]:
        """Indices of the cells, in the order of the batch."""
        return [architecture.index for architecture in self.batch.architectures]

    async def report(self, *places: int) -> None:
        """A stack with these places of the batch has finished."""
        self.reported += len(places)
        self.on_results([(place, evaluation_of(self.batch.architectures[place])) for place in places])
        await settle()

    async def end(self, seconds: float = 1.0) -> None:
        """The batch ends, with what was reported."""
        self.ending.set_result(BatchReport(seconds))
        await settle()

    async def finish(self) -> None:
        """The rest is reported, where the batch was reported in order, and the batch ends."""
        await self.report(*range(self.reported, len(self.batch.architectures)))
        await self.end()

    async def lose(self) -> None:
        """The worker dies."""
        self.ending.set_exception(WorkerLostError("killed"))
        await settle()

    async def fail(self) -> None:
        """The engine raises."""
        self.ending.set_exception(BatchFailedError("Traceback: secret"))
        await settle()


class PuppetPool:
    """A pool whose batches end when the test says so."""

    def __init__(self, slots: int = 1, max_batch: int = 4, max_short_batch: int | None = None) -> None:
        self.slots = slots
        self.max_batch = max_batch
        self.max_short_batch = max_short_batch or max_batch
        self.info = PoolInfo("2.0", "1.0", (DeviceInfo("cpu", "puppet", slots, 1, 2**30),))
        self.runs: list[Run] = []
        self.started = 0
        self.stopped = 0

    @property
    def running(self) -> list[Run]:
        return [run for run in self.runs if not run.ending.done()]

    @property
    def last(self) -> Run:
        return self.runs[-1]

    async def start(self) -> None:
        self.started += 1

    async def run(self, batch: Batch, on_results: OnResults) -> BatchReport:
        run = Run(batch, on_results)
        self.runs.append(run)
        assert len(self.running) <= self.slots
        return await run.ending

    async def stop(self) -> None:
        self.stopped += 1


class PuppetEngine:
    """An engine for worker processes: reports one result a stack, and does what the one proxy of a batch is called.

    "pid" and "threads" score the process id and OMP_NUM_THREADS, "print" prints, "exit" and "kill" end the process,
    "slow" takes its time for each result, "huge" says that no network fits into memory, "large" reports all at once.
    From the first batch on it keeps memory, until it rests.
    After the third result "hang_later" does nothing for ever, and after the first "hang"; "freeze" keeps the
    interpreter to itself meanwhile, "stop" stops the process, "raise" raises, and "break" also breaks the device.
    """

    def __init__(self, device: str, threads: int, data_dir: Path | None) -> None:
        self.hello = Hello("2.0", "1.0", device, "puppet", 2**30)
        self.broken = False
        self.kept = 0
        self.pass_seconds: Mapping[str, float] = {}

    def evaluate_stacks(
        self, architectures: Sequence[Architecture], proxies: Sequence[str], config: EvaluationConfig
    ) -> Iterator[Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]]:
        [proxy] = proxies
        self.kept = 2
        self.pass_seconds = {"train": float(len(architectures))}
        if proxy == "large":
            yield [(place, evaluation_of(architecture)) for place, architecture in enumerate(architectures)]
            return
        for place, architecture in enumerate(architectures):
            match proxy:
                case "exit":
                    os._exit(7)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "hang" if place:
                    time.sleep(3600)
                case "hang_later" if place == 3:
                    time.sleep(3600)
                case "freeze" if place:
                    ctypes.PyDLL(None).sleep(3600)
                case "stop" if place:
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "slow":
                    time.sleep(SLOW)
                case "huge":
                    yield [(place, ArchitectureTooLargeError(2, 1))]
                    continue
                case "raise" | "break" if place:
                    self.broken = proxy == "break"
                    raise ValueError("no such luck")
                case "print":
                    print("noise on stdout", flush=True)  # noqa: T201
            value = {"pid": float(os.getpid()), "threads": float(os.environ["OMP_NUM_THREADS"])}.get(proxy)
            evaluation = evaluation_of(architecture)
            yield [(place, evaluation if value is None else Evaluation({proxy: Score(Outcome.OK, value)}))]

    def memory(self) -> Memory:
        return Memory(resident=os.getpid(), device_used=self.kept, device_size=2)

    def check(self) -> None:
        if self.broken:
            raise RuntimeError("the device is broken")

    def rest(self) -> None:
        self.kept = 0


class PlannedEngine(PuppetEngine):
    """An engine for one worker whose starts go as the lines of DATA_DIR/plan say: "go", "exit" or "stop"."""

    def __init__(self, device: str, threads: int, data_dir: Path | None) -> None:
        assert data_dir
        plan = data_dir / "plan"
        now, *later = plan.read_text().split()
        plan.write_text(" ".join(later))
        if now == "exit":
            os._exit(9)
        if now == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        super().__init__(device, threads, data_dir)


class UnavailableEngine(PuppetEngine):
    """An engine that cannot load."""

    def __init__(self, device: str, threads: int, data_dir: Path | None) -> None:
        raise RuntimeError("CUDA is not available: no GPU")


class StackingEngine(PuppetEngine):
    """An engine with TF32 that evaluates 64 networks side by side."""

    def __init__(self, device: str, threads: int, data_dir: Path | None) -> None:
        super().__init__(device, threads, data_dir)
        self.hello = replace(self.hello, tf32=True, stack_size=64)


class ExitingEngine(PuppetEngine):
    """An engine that takes its process with it."""

    def __init__(self, device: str, threads: int, data_dir: Path | None) -> None:
        os._exit(9)
