"""The worker process: `python -m archscore_server.pool.worker`, started by the pool, spoken to over stdin and stdout.

It ends when its stdin closes, in the middle of a batch too: no worker outlives its front end, however that died.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO

from archscore_server.pool._base import Batch
from archscore_server.pool._messages import (
    BatchDone,
    BatchFailed,
    Engine,
    Results,
    Start,
    StartFailed,
    encode,
    receive,
)


class Channel:
    """The worker's side of the conversation."""

    def __init__(self) -> None:
        """Takes stdin and stdout for itself, and begins to listen."""
        source = os.fdopen(os.dup(0), "rb")
        self._sink = os.fdopen(os.dup(1), "wb")
        # What a library prints must not end up among the messages.
        os.dup2(2, 1)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(source,), name="listen", daemon=True).start()

    def receive(self) -> Any:
        """The next message; waits for it."""
        return self._inbox.get()

    def send(self, message: object) -> None:
        """Sends a message."""
        self._sink.write(encode(message))
        self._sink.flush()

    def _listen(self, source: BinaryIO) -> None:
        try:
            while True:
                self._inbox.put(receive(source))
        except EOFError:
            # At once, from whatever the main thread is in: nobody waits for it any more.
            os._exit(0)
        except Exception:  # noqa: BLE001 -- printed; without a listener the process must not go on
            traceback.print_exc()
            os._exit(1)


def run_batch(engine: Engine, batch: Batch, channel: Channel) -> None:
    """Evaluates a batch and sends what comes of it.

    Raises:
        Exception: the engine failed, and can compute no more.
    """
    started = time.perf_counter()
    try:
        for results in engine.evaluate_stacks(batch.architectures, batch.proxies, batch.config):
            channel.send(Results(results))
    except Exception:  # noqa: BLE001 -- reported to the front end, which knows what to do
        message = traceback.format_exc()
        engine.check()
        channel.send(BatchFailed(message))
    else:
        channel.send(BatchDone(time.perf_counter() - started))


def main() -> None:
    """Loads the engine that the first message names, says hello, and runs batches for ever."""
    # A terminal or a service manager signals the whole group; when workers end is the front end's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel()
    start: Start = channel.receive()
    try:
        engine = start.load(start.device, start.threads, start.data_dir)
    except Exception as error:  # noqa: BLE001 -- reported to the front end, which knows what to do
        channel.send(StartFailed(str(error) or type(error).__name__))
        sys.exit(1)
    channel.send(engine.hello)
    while True:
        run_batch(engine, channel.receive(), channel)


if __name__ == "__main__":
    main()
