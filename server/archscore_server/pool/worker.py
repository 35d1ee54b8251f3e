"""The worker process: `python -m archscore_server.pool.worker`, started by the pool, spoken to over stdin and stdout.

It ends when its stdin closes, in the middle of a batch too: no worker outlives its front end, however that died. A
thread of its own gives signs of life, whatever the engine is at; they cease when the process is stopped, and when
something holds on to the interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from archscore_server import logs
from archscore_server.engine import ArchitectureTooLargeError, Evaluation
from archscore_server.pool._base import Batch, Memory
from archscore_server.pool._messages import (
    BatchDone,
    BatchFailed,
    Beat,
    DeviceBroken,
    Engine,
    Results,
    Start,
    StartFailed,
    encode,
    receive,
)

#: Where memory runs short on the machine, the kernel is to take a worker, which is replaced, and not the front end.
_OOM_SCORE_ADJ = 500

#: Seconds between two looks at how much memory is in use, at least, while batches run.
_MEMORY_SECONDS = 1.0

#: Seconds between two messages with results of one batch: those that come meanwhile go together, since to hand each on
#: by itself takes the front end and the client a part of the time that a small network takes.
_GATHERING_SECONDS = 0.2

#: Seconds without a batch after which the memory that is kept for the next one is given back.
_REST_SECONDS = 2.0

_PR_SET_PDEATHSIG = 1

EvaluatedStack = Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]

_logger = logging.getLogger(__name__)


class Channel:
    """The worker's side of the conversation.

    Attributes:
        memory: looks how much memory is in use, for signs of life; None where that must not be done meanwhile. A driver
            may keep whoever asks it waiting while a batch runs, and signs of life must not wait.
    """

    def __init__(self) -> None:
        """Takes stdin and stdout for itself, and begins to listen."""
        source = os.fdopen(os.dup(0), "rb")
        self._sink = os.fdopen(os.dup(1), "wb")
        self._sending = threading.Lock()
        self._some_gathered = threading.Condition(self._sending)
        self._gathered: list[tuple[int, Evaluation | ArchitectureTooLargeError]] = []
        self._sent_results = 0.0
        self.memory: Callable[[], Memory | None] | None = None
        self._looked = 0.0
        # What a library prints must not end up among the messages.
        os.dup2(2, 1)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(source,), name="listen", daemon=True).start()
        threading.Thread(target=self._hand_on, name="hand-on", daemon=True).start()

    def receive(self, timeout: float | None = None) -> Any:
        """The next message; waits for it, so many seconds, or as long as it takes.

        Raises:
            queue.Empty: none came in time.
        """
        return self._inbox.get(timeout=timeout)

    def send(self, message: object) -> None:
        """Sends a message, and before it the results that wait. Threads may send at once: messages never mix."""
        with self._sending:
            self._send_gathered()
            self._write(message)
            self._sent_results = 0.0  # the first results of the next batch go at once

    def send_results(self, results: EvaluatedStack) -> None:
        """Sends results now, or together with those that come in the next moment."""
        with self._sending:
            self._gathered += results
            if time.monotonic() - self._sent_results >= _GATHERING_SECONDS:
                self._send_gathered()
            else:
                self._some_gathered.notify()

    def _send_gathered(self) -> None:
        if self._gathered:
            self._write(Results(self._gathered))
            self._gathered = []
            self._sent_results = time.monotonic()

    def _hand_on(self) -> None:
        """Sees to it that nothing stays gathered, however long the next results take."""
        while True:
            with self._some_gathered:
                self._some_gathered.wait_for(lambda: self._gathered)
            time.sleep(_GATHERING_SECONDS)
            with self._sending:
                self._send_gathered()

    def _write(self, message: object) -> None:
        try:
            self._sink.write(encode(message))
            self._sink.flush()
        except BrokenPipeError:
            # The front end is gone, whichever thread sees it first.
            os._exit(0)

    def send_memory(self, engine: Engine) -> None:
        """Says how much memory is in use, unless it did lately. To be called when a stack has been read."""
        if time.monotonic() - self._looked >= _MEMORY_SECONDS:
            self.send(Beat(memory_of(engine)))
            self._looked = time.monotonic()

    def beat(self, interval: float) -> None:
        """Gives a sign of life now and every so many seconds, from a thread of its own."""
        threading.Thread(target=self._beat, args=(interval,), name="beat", daemon=True).start()

    def _beat(self, interval: float) -> None:
        while True:
            look = self.memory
            self.send(Beat(look() if look else None))
            time.sleep(interval)

    def _listen(self, source: BinaryIO) -> None:
        try:
            while True:
                self._inbox.put(receive(source))
        except EOFError:
            # At once, from whatever the main thread is in: nobody waits for it any more.
            os._exit(0)
        except Exception:
            # Without a listener the process must not go on.
            _logger.exception("the worker cannot read what it is told")
            os._exit(1)


def run_batch(engine: Engine, batch: Batch, channel: Channel) -> None:
    """Evaluates a batch and sends what comes of it.

    Raises:
        Exception: the engine failed, and can compute no more.
    """
    started = time.perf_counter()
    try:
        for results in engine.evaluate_stacks(batch.architectures, batch.proxies, batch.config):
            channel.send_results(results)
            channel.send_memory(engine)
    except Exception:  # noqa: BLE001 -- reported to the front end, which knows what to do
        message = traceback.format_exc()
        try:
            engine.check()
        except Exception as error:
            channel.send(DeviceBroken(f"{error!r} after {message}"))
            raise
        channel.send(BatchFailed(message))
    else:
        channel.send(BatchDone(time.perf_counter() - started, dict(engine.pass_seconds)))


def memory_of(engine: Engine) -> Memory | None:
    """The memory in use; None if it cannot be said."""
    try:
        return engine.memory()
    except Exception as error:  # noqa: BLE001 -- a device that fails shows where it is computed with
        _logger.debug("cannot see how much memory is in use: %s", error)
        return None


def rest(engine: Engine) -> None:
    """Has the engine give back memory; a device that cannot is found broken by the next batch."""
    try:
        engine.rest()
    except Exception as error:  # noqa: BLE001 -- a device that fails shows where it is computed with
        _logger.debug("cannot give memory back: %s", error)


def main() -> None:
    """Loads the engine that the first message names, says hello, and runs batches for ever."""
    # A terminal or a service manager signals the whole group; when workers end is the front end's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_before_the_front_end()
    _die_with_the_front_end()
    channel = Channel()
    start: Start = channel.receive()
    if start.log:
        logs.configure(start.log.level, style=start.log.style, fields={"worker": os.getpid()})
    channel.beat(start.beat)
    try:
        engine = start.load(start.device, start.threads, start.data_dir)
    except Exception as error:  # noqa: BLE001 -- reported to the front end, which knows what to do
        channel.send(StartFailed(str(error) or type(error).__name__))
        sys.exit(1)
    channel.send(engine.hello)
    while True:
        channel.memory = partial(memory_of, engine)
        try:
            batch = channel.receive(_REST_SECONDS)
        except queue.Empty:
            rest(engine)
            batch = channel.receive()
        channel.memory = None
        run_batch(engine, batch, channel)


def _die_before_the_front_end() -> None:
    adjustment = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        if int(adjustment.read_text(encoding="ascii")) < _OOM_SCORE_ADJ:
            adjustment.write_text(str(_OOM_SCORE_ADJ), encoding="ascii")


def _die_with_the_front_end() -> None:
    """Has the kernel kill this process when its front end ends: one that is stopped or hangs cannot see it."""
    with contextlib.suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
