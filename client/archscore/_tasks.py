"""Tasks that read the streams of an asynchronous `score_many`, one for each chunk in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import grpc
import grpc.aio

from archscore import _closing, _status
from archscore._many import Chunk
from archscore._results import Result
from archscore.errors import ArchscoreError

_PATIENCE: Final = 1.0
"""Seconds that a stream with all its answers may take to end by itself."""

if TYPE_CHECKING:
    from archscore.v1 import scoring_pb2

    Method: TypeAlias = grpc.aio.UnaryStreamMultiCallable[
        scoring_pb2.ScoreArchitecturesRequest, scoring_pb2.ScoreArchitecturesResponse
    ]


class Tasks:
    """Sends chunks, each in a task of its own, and gathers what comes back."""

    def __init__(
        self,
        method: Method,
        metadata: tuple[tuple[str, str], ...],
        target: str,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        """Starts without any task.

        Args:
            method: the streaming RPC.
            metadata: what goes with every request.
            target: the server's address, for messages.
            sleep: pauses for some seconds.
        """
        self._method = method
        self._metadata = metadata
        self._target = target
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: asyncio.Queue[tuple[Chunk, list[Result]] | BaseException] = asyncio.Queue()

    def start(self, chunk: Chunk) -> None:
        """Sends a chunk."""
        task = asyncio.create_task(self._read(chunk), name="archscore-reader")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def take(self, *, wait: bool) -> list[tuple[Chunk, list[Result]]]:
        """What has come back.

        Args:
            wait: whether to wait for something if there is nothing yet.

        Raises:
            BaseException: whatever went wrong in a task.
        """
        if not wait:
            await asyncio.sleep(0)  # Whatever the iterable does, let tasks that were started get to send.
        answers = [await self._answers.get()] if wait else []
        while not self._answers.empty():
            answers.append(self._answers.get_nowait())
        taken = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            taken.append(answer)
        return taken

    async def finish(self) -> None:
        """Lets streams that have nothing more to say end by themselves, so that the server counts them as complete."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE)

    async def close(self) -> None:
        """Cancels what is in flight and ends all tasks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, chunk: Chunk) -> None:
        """Body of a task."""
        try:
            if chunk.rejected:
                self._answers.put_nowait((chunk, chunk.rejected))
            while not chunk.done:
                failure = await self._attempt(chunk)
                if failure is None:
                    continue
                pause, results = chunk.failed(failure)
                if results:
                    self._answers.put_nowait((chunk, results))
                if pause:
                    await self._sleep(pause)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 -- raised again by whoever takes it
            self._answers.put_nowait(error)

    async def _attempt(self, chunk: Chunk) -> ArchscoreError | None:
        """Sends a request and reads its answers; returns what went wrong."""
        with _closing.asynchronous():
            call = self._method(chunk.request(), timeout=chunk.timeout(), metadata=self._metadata)
            try:
                async for response in call:
                    if results := chunk.answered(response):
                        self._answers.put_nowait((chunk, results))
            except grpc.RpcError as error:
                return _status.from_rpc(error, self._target)
            finally:
                call.cancel()
        return chunk.ended()
