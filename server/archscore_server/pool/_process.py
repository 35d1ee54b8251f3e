"""The front end's side of one worker process: start it, give it batches, notice its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Self

from archscore_server.pool._base import (
    Batch,
    BatchFailedError,
    BatchReport,
    OnResults,
    PoolStartError,
    WorkerLostError,
)
from archscore_server.pool._messages import (
    BatchDone,
    BatchFailed,
    Hello,
    Results,
    Start,
    StartFailed,
    encode,
    receive_async,
)

#: Seconds that a worker which has closed its pipes gets to end.
_PATIENCE = 1.0


def python(module: str) -> list[str]:
    """The command line of a module of ours, run by this interpreter."""
    return [sys.executable, "-P", "-m", module]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child process, which finds modules where this process does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), **variables}  # noqa: PTH109


class _Job:
    """A batch that runs."""

    def __init__(self, on_results: OnResults) -> None:
        self.on_results = on_results
        self.report: asyncio.Future[BatchReport] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.report.done():
            self.report.set_exception(error)


class WorkerProcess:
    """One worker, from its first breath to its last.

    Attributes:
        hello: what it computes with.
    """

    def __init__(self, process: asyncio.subprocess.Process, hello: Hello) -> None:
        """Made by `spawn`."""
        self.hello = hello
        self._process = process
        self._job: _Job | None = None

    @classmethod
    async def spawn(cls, start: Start, variables: Mapping[str, str]) -> Self:
        """Starts a worker and waits until it is warm. Leaves no process if it fails or is cancelled.

        Args:
            start: what the worker is to load.
            variables: of its environment, besides those of this process.

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
            hello = await receive_async(_stdout(process))
        except EOFError:
            raise PoolStartError(f"a worker process {await _reap(process, _PATIENCE)} before it was ready") from None
        except BaseException:
            await _reap(process)
            raise
        if isinstance(hello, StartFailed):
            await _reap(process)
            raise PoolStartError(hello.reason)
        return cls(process, hello)

    async def listen(self, on_free: Callable[[], None]) -> str:
        """Reads what the worker says until it is gone, and says in words how it ended.

        Args:
            on_free: called when the worker can take a batch again.
        """
        ending = f"worker process {self._process.pid} was stopped"
        patience = 0.0
        try:
            while True:
                self._handle(await receive_async(_stdout(self._process)))
                if self._job is None:
                    on_free()
        except EOFError:
            patience = _PATIENCE
        finally:
            # Also when cancelled: no process may be left, and whoever waits for a batch must hear of it.
            try:
                ending = f"worker process {self._process.pid} {await _reap(self._process, patience)}"
            finally:
                if self._job:
                    self._job.fail(WorkerLostError(ending))
        return ending

    async def run(self, batch: Batch, on_results: OnResults) -> BatchReport:
        """Runs a batch; the worker must be free. See `Pool.run`."""
        self._job = _Job(on_results)
        # No need to wait for the buffer to empty: there is one batch in it at most.
        _stdin(self._process).write(encode(batch))
        return await self._job.report

    async def close(self) -> None:
        """Ends a worker that nobody listens to."""
        await _reap(self._process)

    def _handle(self, message: object) -> None:
        job = self._job
        if job is None:
            raise RuntimeError(f"unexpected message from a worker: {message!r}")
        if isinstance(message, Results):
            if not job.report.done():  # else whoever asked for the batch was cancelled, or has failed before
                try:
                    job.on_results(message.results)
                except Exception as error:  # noqa: BLE001 -- it is the caller's, and no fault of the worker
                    job.fail(error)
            return
        self._job = None
        if isinstance(message, BatchFailed):
            job.fail(BatchFailedError(message.message))
        elif isinstance(message, BatchDone) and not job.report.done():
            job.report.set_result(BatchReport(message.seconds))


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
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), patience)
    if process.returncode is None:
        # Not process.kill(): it may reap the process and keep the exit code from asyncio.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    code = await process.wait()
    # The event loop closes the pipes a little later, and never if it ends first.
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_PATIENCE):
            await _stdout(process).read()
            await _stdin(process).wait_closed()
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _stdin(process: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    if process.stdin is None:
        raise RuntimeError("stdin is not a pipe")
    return process.stdin


def _stdout(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise RuntimeError("stdout is not a pipe")
    return process.stdout
