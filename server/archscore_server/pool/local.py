"""Worker processes on this machine, each with a device or a share of the cores, replaced when they die or hang."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from archscore_server import logs
from archscore_server.engine.stack_sizes import STACKS_A_BATCH
from archscore_server.pool._base import (
    Batch,
    BatchReport,
    DeviceInfo,
    LossReason,
    OnResults,
    PoolInfo,
    PoolStartError,
    WorkerLostError,
)
from archscore_server.pool._cores import share, usable_cores, variables
from archscore_server.pool._expectation import Expectation
from archscore_server.pool._messages import LoadEngine, Start
from archscore_server.pool._observer import NullPoolObserver, PoolObserver
from archscore_server.pool._process import WorkerProcess
from archscore_server.pool._torch_engine import TorchEngine
from archscore_server.pool._watch import Timeouts
from archscore_server.pool.probe import probe_gpus

#: Architectures in a batch. On a CPU a stack is one network, so a batch only saves messages, and a long one keeps
#: urgent work waiting, unless the networks are small; a GPU works on many at once.
_MAX_BATCH: Final = {"cpu": 4, "cuda": 128}
_MAX_SHORT_BATCH: Final = 32

#: Seconds before the next try after a worker that could not start: at first, and at most.
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seat:
    """A place that always has a worker, or is about to get one."""

    number: int
    device: str
    start: Start
    variables: Mapping[str, str]


class LocalPool:
    """A `Pool` of worker processes.

    A worker that dies, hangs or reports a device error is replaced at once; its batch raises WorkerLostError. The pool
    lives on one event loop.
    """

    def __init__(
        self,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        workers: int | None = None,
        threads: int | None = None,
        data_dir: Path | None = None,
        load: LoadEngine = TorchEngine,
        heartbeat_timeout: float = 30.0,
        batch_timeout: float = 60.0,
        observer: PoolObserver | None = None,
    ) -> None:
        """A pool without workers.

        Args:
            device: kind of device; "auto" takes the GPUs if there are any.
            workers: worker processes. Default: one on each GPU, or one on each usable core.
            threads: CPU threads of each worker. Default: an equal share of the usable cores.
            data_dir: directory with the real datasets, which workers read themselves.
            load: loads what workers evaluate with: a class or function of a module, since it travels by name.
            heartbeat_timeout: seconds of silence after which a worker is taken for hung.
            batch_timeout: seconds that a batch gets for each of its stacks, besides many times what it should take,
                before its worker is taken for hung.
            observer: hears what becomes of workers; that one is lost, only if it had started.
        """
        self._device = device
        self._workers = workers
        self._threads = threads
        self._data_dir = data_dir
        self._load = load
        self._timeouts = Timeouts(heartbeat_timeout, batch_timeout)
        self._observer = observer or NullPoolObserver()
        self._seats: list[_Seat] = []
        self._starting: asyncio.Task[None] | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._burials: set[asyncio.Task[None]] = set()
        self._ready: set[WorkerProcess] = set()
        self._free: deque[WorkerProcess] = deque()
        self._freed = asyncio.Event()
        self._info: PoolInfo | None = None
        self._max_batch = 1
        self._expectation = Expectation()
        self._stopped = False

    @property
    def slots(self) -> int:
        """Workers, whether or not all are ready."""
        return len(self._seats)

    @property
    def max_batch(self) -> int:
        """Architectures in a batch beyond which nothing is gained on these devices: it depends on their stacks."""
        return self._max_batch

    @property
    def max_short_batch(self) -> int:
        """The same of architectures that take little time."""
        return max(self._max_batch, _MAX_SHORT_BATCH)

    @property
    def info(self) -> PoolInfo:
        """What runs in the workers."""
        if self._info is None:
            raise RuntimeError("the pool has not started")
        return self._info

    @property
    def ready_workers(self) -> int:
        """Workers that can take a batch or are at one."""
        return len(self._ready)

    async def start(self) -> None:
        """Starts the workers and returns when all are warm.

        Raises:
            PoolStartError: there is no such device, or a worker cannot start.
        """
        self._starting = asyncio.create_task(self._launch())
        try:
            await self._starting
        except asyncio.CancelledError:
            if self._stopped:
                raise PoolStartError("the pool was stopped while it started") from None
            raise

    async def run(self, batch: Batch, on_results: OnResults) -> BatchReport:
        """Runs a batch on a free worker; see `Pool.run`."""
        while not self._free:
            if self._stopped:
                raise WorkerLostError("the pool has stopped")
            self._freed.clear()
            await self._freed.wait()
        worker = self._free.popleft()
        self._workers_changed()
        return await worker.run(batch, on_results, self._expectation.of(batch, self.info.device_kind))

    async def stop(self) -> None:
        """Kills the workers, and returns when no process is left."""
        self._stopped = True
        self._freed.set()
        tasks = [*self._keepers, *([self._starting] if self._starting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in list(self._ready):  # of keepers that were cancelled before they ever ran
            self._departed(worker)
            await worker.bury()
        await asyncio.gather(*self._burials)

    async def _launch(self) -> None:
        seats = await self._plan()
        workers = await _spawn_all(seats, self._timeouts)
        self._seats = seats
        self._info = _describe(seats, workers)
        kind = self._info.device_kind
        self._max_batch = max(_MAX_BATCH[kind], STACKS_A_BATCH[kind] * self._info.stack_size)
        for worker in workers:
            self._arrived(worker)
        self._keepers = [asyncio.create_task(self._keep(*pair)) for pair in zip(seats, workers, strict=True)]

    async def _plan(self) -> list[_Seat]:
        """One seat for each worker to be."""
        gpus = [] if self._device == "cpu" else await probe_gpus()
        if self._device == "cuda" and not gpus:
            raise PoolStartError("CUDA is not available: torch sees no GPU")
        workers, threads = share(usable_cores(), len(gpus), self._workers, self._threads)
        kind = "cuda" if gpus else "cpu"
        start = Start(self._load, kind, threads, self._data_dir, self._timeouts.tick, logs.settings())
        shared = variables(threads)
        if not gpus:
            return [_Seat(number, kind, start, shared) for number in range(workers)]
        places = [(number, number % len(gpus)) for number in range(workers)]
        return [
            _Seat(number, str(gpu), start, shared | {"CUDA_VISIBLE_DEVICES": _visible_gpu(gpu)})
            for number, gpu in places
        ]

    async def _keep(self, seat: _Seat, worker: WorkerProcess) -> None:
        """Keeps a seat taken, for ever."""
        while True:
            reason: LossReason = "died"
            try:
                reason = await worker.listen(
                    partial(self._release, worker), partial(self._observer.worker_memory, seat.number, seat.device)
                )
            except asyncio.CancelledError:
                self._departed(worker)
                await worker.bury()
                raise
            except Exception:
                _logger.exception("a worker is dismissed")
            self._departed(worker)
            # Not here: a process may take its time to end, and its successor need not wait for that.
            self._bury(worker)
            self._observer.worker_lost(reason)
            worker = await self._replace(seat)
            self._arrived(worker)

    async def _replace(self, seat: _Seat) -> WorkerProcess:
        delay = _FIRST_DELAY
        while True:
            try:
                return await WorkerProcess.spawn(seat.start, seat.variables, self._timeouts)
            except PoolStartError as error:
                _logger.warning("cannot start a worker, trying again in %.1f s: %s", delay, error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)

    def _bury(self, worker: WorkerProcess) -> None:
        burial = asyncio.create_task(self._see_off(worker))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def _see_off(self, worker: WorkerProcess) -> None:
        ending = await worker.bury()
        if not self._stopped:
            _logger.warning("%s; another takes its place", ending)

    def _release(self, worker: WorkerProcess) -> None:
        self._free.append(worker)
        self._freed.set()
        self._workers_changed()

    def _arrived(self, worker: WorkerProcess) -> None:
        self._ready.add(worker)
        self._release(worker)

    def _departed(self, worker: WorkerProcess) -> None:
        self._ready.discard(worker)
        if worker in self._free:
            self._free.remove(worker)
        self._workers_changed()

    def _workers_changed(self) -> None:
        idle = len(self._free)
        self._observer.workers_changed(idle=idle, busy=len(self._ready) - idle, workers=len(self._seats))


async def _spawn_all(seats: list[_Seat], timeouts: Timeouts) -> list[WorkerProcess]:
    """Starts a worker for each seat; all of them or none."""
    spawns = [asyncio.create_task(WorkerProcess.spawn(seat.start, seat.variables, timeouts)) for seat in seats]
    try:
        return await asyncio.gather(*spawns)
    except BaseException:
        for spawn in spawns:
            if not spawn.cancelling():  # a second time would interrupt it as it cleans up
                spawn.cancel()
        for spawned in await asyncio.gather(*spawns, return_exceptions=True):
            if isinstance(spawned, WorkerProcess):
                await spawned.bury()
        raise


def _visible_gpu(index: int) -> str:
    """What CUDA_VISIBLE_DEVICES must be for a process to see just one of the GPUs that this process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[index].strip() if visible else str(index)


def _describe(seats: list[_Seat], workers: list[WorkerProcess]) -> PoolInfo:
    hello = workers[0].hello
    # On a CPU all workers share the one device; GPUs differ by what their workers see.
    places = [
        (seat.variables.get("CUDA_VISIBLE_DEVICES"), worker.hello) for seat, worker in zip(seats, workers, strict=True)
    ]
    devices = tuple(
        DeviceInfo(at.device_kind, at.device_name, number, seats[0].start.threads, at.memory_bytes)
        for (_, at), number in Counter(places).items()
    )
    uuids = tuple(at.device_uuid for _, at in dict.fromkeys(places) if at.device_uuid)
    tf32 = all(worker.hello.tf32 for worker in workers)
    stack_size = max(worker.hello.stack_size for worker in workers)
    return PoolInfo(hello.torch_version, hello.numpy_version, devices, uuids, tf32, stack_size)
