"""The front end's side of one worker process: start it, give it batches, notice that it ends or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from archscore_server.engine import ArchitectureTooLargeError, Evaluation
from archscore_server.pool._base import (
    Batch,
    BatchFailedError,
    BatchReport,
    LossReason,
    Memory,
    OnResults,
    PoolStartError,
    WorkerLostError,
)
from archscore_server.pool._expectation import Forecast
from archscore_server.pool._messages import (
    BatchDone,
    BatchFailed,
    Beat,
    DeviceBroken,
    Hello,
    Results,
    Start,
    StartFailed,
    encode,
    receive_async,
)
from archscore_server.pool._watch import START_TIMEOUT, Patience, Timeouts, watched

#: Seconds that a worker which has closed its pipes gets to end.
_PATIENCE = 1.0


def python(module: str) -> list[str]:
    """The command line of a module of ours, run by this interpreter."""
    return [sys.executable, "-P", "-m", module]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child process, which finds modules where this process does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), **variables}  # noqa: PTH109


class _Job:
    """A batch that runs.

    Attributes:
        report: how it ends; cancelled if nobody waits for it any more.
        patience: what it may take until its next stack is reported.
    """

    def __init__(self, on_results: OnResults, forecast: Forecast, timeout: float) -> None:
        self.report: asyncio.Future[BatchReport] = asyncio.get_running_loop().create_future()
        self.patience = Patience(timeout + forecast.allowance)
        self._on_results = on_results
        self._forecast = forecast
        self._timeout = timeout

    def progress(self, results: Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]) -> None:
        self._forecast.progress(results)
        self.patience.restart(self._timeout + self._forecast.allowance)
        if self.report.done():  # whoever asked for the batch was cancelled, or has failed before
            return
        try:
            self._on_results(results)
        except Exception as error:  # noqa: BLE001 -- it is the caller's, and no fault of the worker
            self.fail(error)

    def finish(self, report: BatchReport) -> None:
        self._forecast.finish(report.compute_seconds)
        if not self.report.done():
            self.report.set_result(report)

    def fail(self, error: Exception) -> None:
        if not self.report.done():
            self.report.set_exception(error)


class WorkerProcess:
    """One worker, from its first breath to its last.

    Attributes:
        hello: what it computes with.
    """

    def __init__(self, process: asyncio.subprocess.Process, hello: Hello, timeouts: Timeouts) -> None:
        """Made by `spawn`."""
        self.hello = hello
        self._process = process
        self._timeouts = timeouts
        self._silence = Patience(timeouts.heartbeat)
        self._job: _Job | None = None
        self._ending = False

    @classmethod
    async def spawn(cls, start: Start, variables: Mapping[str, str], timeouts: Timeouts) -> Self:
        """Starts a worker and waits until it is warm. Leaves no process if it fails or is cancelled.

        Args:
            start: what the worker is to load.
            variables: of its environment, besides those of this process.
            timeouts: when it is taken for hung.

        Raises:
            PoolStartError: it cannot start.
        """
        # Not multiprocessing: its helper process and its import of our __main__ are not wanted, and asyncio reads the
        # pipes without threads.
        process = await asyncio.create_subprocess_exec(
            *python("archscore_server.pool.worker"),
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            _stdin(process).write(encode(start))
            hello = await _first_words(process, timeouts)
        except EOFError:
            raise PoolStartError(f"a worker process {await _reap(process, _PATIENCE)} before it was ready") from None
        except TimeoutError:
            await _reap(process)
            raise PoolStartError("a worker process hung before it was ready") from None
        except BaseException:
            await _reap(process)
            raise
        if isinstance(hello, StartFailed):
            await _reap(process)
            raise PoolStartError(hello.reason)
        return cls(process, hello, timeouts)

    async def listen(
        self, on_free: Callable[[], None], on_memory: Callable[[Memory], None] = lambda _: None
    ) -> LossReason:
        """Reads what the worker says until it is lost, and says how. `bury` it then.

        Args:
            on_free: called when the worker can take a batch again.
            on_memory: called when it has looked how much memory is in use.
        """
        try:
            async with watched(self._timeouts.tick, self._is_overdue):
                while True:
                    message = await receive_async(_stdout(self._process))
                    self._silence.restart(self._timeouts.heartbeat)
                    if isinstance(message, Beat):
                        if message.memory:
                            on_memory(message.memory)
                        continue
                    if isinstance(message, DeviceBroken):
                        self._lose(f"reported a device error: {message.message}", "device_error")
                        return "device_error"
                    self._handle(message)
                    if self._job is None:
                        on_free()
        except TimeoutError:
            why = "it was silent" if self._silence.over else "its batch took far longer than it should"
            self._lose(f"hung and is killed: {why}", "hung")
            return "hung"
        except EOFError:
            self._ending = True
            return "died"

    async def run(self, batch: Batch, on_results: OnResults, forecast: Forecast) -> BatchReport:
        """Runs a batch; the worker must be free. See `Pool.run`."""
        self._job = _Job(on_results, forecast, self._timeouts.batch)
        # No need to wait for the buffer to empty: there is one batch in it at most.
        _stdin(self._process).write(encode(batch))
        return await self._job.report

    async def bury(self) -> str:
        """Makes sure that a worker that nobody listens to is gone, and says in words how it ended."""
        try:
            if self._ending:
                # Its exit code says why, and is there in a moment; whoever waits for the batch waits no longer.
                await _wait(self._process, _PATIENCE)
                self._lose(_how_it_ended(self._process), "died")
            return self._words(await _reap(self._process))
        finally:
            # Also when cancelled: whoever waits for a batch must hear of it.
            self._lose(_how_it_ended(self._process), "died")

    def _handle(self, message: object) -> None:
        job = self._job
        if job is None:
            raise RuntimeError(f"unexpected message from a worker: {message!r}")
        if isinstance(message, Results):
            job.progress(message.results)
            return
        self._job = None
        if isinstance(message, BatchFailed):
            job.fail(BatchFailedError(message.message))
        elif isinstance(message, BatchDone):
            job.finish(BatchReport(message.seconds, message.pass_seconds))

    def _is_overdue(self, seconds: float) -> bool:
        patiences = [self._silence, *([self._job.patience] if self._job else [])]
        for patience in patiences:
            patience.tick(seconds)
        return any(patience.over for patience in patiences)

    def _lose(self, ending: str, reason: LossReason) -> None:
        if self._job:
            self._job.fail(WorkerLostError(self._words(ending), reason))
            self._job = None

    def _words(self, ending: str) -> str:
        return f"worker process {self._process.pid} {ending}"


async def _first_words(process: asyncio.subprocess.Process, timeouts: Timeouts) -> Any:
    """What a worker says when it has started, or cannot.

    Raises:
        EOFError: it is gone.
        TimeoutError: it hangs.
    """
    silence, whole = Patience(timeouts.start_silence), Patience(START_TIMEOUT)

    def is_overdue(seconds: float) -> bool:
        silence.tick(seconds)
        whole.tick(seconds)
        return silence.over or whole.over

    async with watched(timeouts.tick, is_overdue):
        while True:
            message = await receive_async(_stdout(process))
            if not isinstance(message, Beat):
                return message
            silence.restart(timeouts.start_silence)


async def _reap(process: asyncio.subprocess.Process, patience: float = 0.0) -> str:
    """Makes sure that a process is gone, also when cancelled, and says in words how it ended.

    Args:
        process: a worker.
        patience: seconds to let it end of its own accord, for one that is ending: its exit code says why.
    """
    end = asyncio.create_task(_end(process, patience))
    try:
        return await asyncio.shield(end)
    except asyncio.CancelledError:
        await asyncio.wait([end])
        raise


async def _end(process: asyncio.subprocess.Process, patience: float) -> str:
    _stdin(process).close()
    await _wait(process, patience)
    if process.returncode is None:
        # Not process.kill(): it may reap the process and keep the exit code from asyncio.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    # The event loop closes the pipes a little later, and never if it ends first.
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_PATIENCE):
            await _stdout(process).read()
            await _stdin(process).wait_closed()
    return _how_it_ended(process)


async def _wait(process: asyncio.subprocess.Process, patience: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), patience)


def _how_it_ended(process: asyncio.subprocess.Process) -> str:
    code = process.returncode
    if code is None:
        return "is ending"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _stdin(process: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    if process.stdin is None:
        raise RuntimeError("stdin is not a pipe")
    return process.stdin


def _stdout(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise RuntimeError("stdout is not a pipe")
    return process.stdout
