"""Runs a server with worker processes on this machine until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from archscore_server.app import Server
from archscore_server.config import Settings
from archscore_server.pool import Pool
from archscore_server.pool.local import LocalPool

_logger = logging.getLogger(__name__)


async def serve(settings: Settings, announce: Callable[[Server], None]) -> None:
    """Runs a server until SIGTERM or SIGINT; the second one does not wait for work in progress.

    Args:
        settings: how to run.
        announce: called when the server is ready.

    Raises:
        StartError: the server cannot start.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    server = Server(settings, _local_pool)
    try:
        if await _ends_before(stop, server.start()):
            announce(server)
            await stop.wait()
            _logger.info("stopping: work in progress has %g s", settings.grace)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_ends_before(hurry, server.drain()), settings.grace)
    finally:
        await server.stop()
    _logger.info("stopped")


async def _ends_before(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Runs work until it ends or the event comes, which cancels it. Says whether it has ended."""
    tasks = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = tasks[0].done()
        if ended:
            await tasks[0]
        return ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _local_pool(settings: Settings, on_workers_changed: Callable[[int, int], None]) -> Pool:
    """The pool of worker processes on this machine."""
    return LocalPool(
        device=settings.device,
        workers=settings.workers,
        threads=settings.threads,
        data_dir=settings.data_dir,
        on_workers_changed=on_workers_changed,
    )
