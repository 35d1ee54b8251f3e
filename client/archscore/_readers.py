"""Threads that read the streams of a blocking `score_many`, one for each chunk in flight.

A thread that is done with a chunk takes the next one: its first call costs a thread several times what later ones do.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import grpc

from archscore import _closing, _status
from archscore._many import Chunk
from archscore._results import Result
from archscore.errors import ArchscoreError

_PATIENCE: Final = 1.0
"""Seconds that a stream with all its answers may take to end by itself."""
_GLANCE: Final = 0.5
"""Seconds of a wait after which the interpreter looks for signals. One that comes just before a wait begins does not
end it, and Ctrl-C would go unheard for as long as nothing is answered."""

if TYPE_CHECKING:
    from archscore.v1 import scoring_pb2

    Method: TypeAlias = grpc.UnaryStreamMultiCallable[
        scoring_pb2.ScoreArchitecturesRequest, scoring_pb2.ScoreArchitecturesResponse
    ]


class Readers:
    """Sends chunks, each in a thread of its own, and gathers what comes back."""

    def __init__(
        self,
        method: Method,
        metadata: tuple[tuple[str, str], ...],
        target: str,
        wait: Callable[[threading.Event, float], object],
    ) -> None:
        """Starts without any thread.

        Args:
            method: the streaming RPC.
            metadata: what goes with every request.
            target: the server's address, for messages.
            wait: pauses for some seconds, or until an event is set.
        """
        self._method = method
        self._metadata = metadata
        self._target = target
        self._wait = wait
        self._threads: list[threading.Thread] = []
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._calls: dict[Chunk, grpc.Call] = {}
        self._stopped = threading.Event()
        self._answers: queue.SimpleQueue[tuple[Chunk, list[Result]] | BaseException] = queue.SimpleQueue()

    def start(self, chunk: Chunk) -> None:
        """Sends a chunk."""
        self._chunks.put(chunk)
        if not self._idle.acquire(blocking=False):
            self._threads.append(threading.Thread(target=self._work, name="archscore-reader", daemon=True))
            self._threads[-1].start()

    def take(self, *, wait: bool) -> Iterator[tuple[Chunk, list[Result]]]:
        """What has come back.

        Args:
            wait: whether to wait for something if there is nothing yet.

        Raises:
            BaseException: whatever went wrong in a thread.
        """
        while True:
            try:
                answer = self._answers.get(block=wait, timeout=_GLANCE)
            except queue.Empty:
                if wait:
                    continue
                return
            if isinstance(answer, BaseException):
                raise answer
            wait = False
            yield answer

    def finish(self) -> None:
        """Lets streams that have nothing more to say end by themselves, so that the server counts them as complete."""
        self._send_home()
        for thread in self._threads:
            thread.join(_PATIENCE)

    def close(self) -> None:
        """Cancels what is in flight and ends all threads."""
        self._stopped.set()
        for call in list(self._calls.values()):
            call.cancel()
        self._send_home()
        for thread in self._threads:
            thread.join()

    def _send_home(self) -> None:
        """Ends each thread after its chunk."""
        for _ in self._threads:
            self._chunks.put(None)

    def _work(self) -> None:
        """Body of a thread."""
        while (chunk := self._chunks.get()) is not None:
            self._read(chunk)
            self._idle.release()

    def _read(self, chunk: Chunk) -> None:
        """Sends a chunk until all of it is answered."""
        try:
            if chunk.rejected:
                self._answers.put((chunk, chunk.rejected))
            while not chunk.done and not self._stopped.is_set():
                failure = self._attempt(chunk)
                if failure is None or self._stopped.is_set():
                    continue
                pause, results = chunk.failed(failure)
                if results:
                    self._answers.put((chunk, results))
                if pause:
                    self._wait(self._stopped, pause)
        except BaseException as error:  # noqa: BLE001 -- raised again by whoever takes it
            self._answers.put(error)
        finally:
            self._calls.pop(chunk, None)

    def _attempt(self, chunk: Chunk) -> ArchscoreError | None:
        """Sends a request and reads its answers; returns what went wrong."""
        try:
            with _closing.blocking():
                call = self._method(chunk.request(), timeout=chunk.timeout(), metadata=self._metadata)
            self._calls[chunk] = call
            # Whoever stops us sets the event before looking for calls, so one of the two sees the other.
            if self._stopped.is_set():
                call.cancel()
            for response in call:
                if results := chunk.answered(response):
                    self._answers.put((chunk, results))
        except grpc.RpcError as error:
            return _status.from_rpc(error, self._target)
        return chunk.ended()
