"""Runs a server with worker processes on this machine until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from archscore_server import _grpc_logs
from archscore_server.app import Server
from archscore_server.config import Settings
from archscore_server.engine import stack_sizes
from archscore_server.pool import Pool, PoolObserver
from archscore_server.pool._torch_engine import TorchEngine
from archscore_server.pool.local import LocalPool

_logger = logging.getLogger(__name__)

#: Collections of the middle generation of objects before one of all: some millions of new objects that stay.
_FULL_COLLECTION_AFTER = 1_000


async def serve(settings: Settings, announce: Callable[[Server], None]) -> None:
    """Runs a server until SIGTERM or SIGINT; the second one does not wait for work in progress.

    SIGTERM comes from a service manager: load balancers get a while to notice. SIGINT comes from a terminal.

    Args:
        settings: how to run.
        announce: called when the server is ready.

    Raises:
        StartError: the server cannot start.
    """
    _allow_open_files()
    _grpc_logs.drop_peers_faults()
    stop, hurry = asyncio.Event(), asyncio.Event()
    lame_duck = settings.lame_duck

    def on_signal(number: signal.Signals) -> None:
        nonlocal lame_duck
        if number == signal.SIGINT:
            lame_duck = 0.0
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    server = Server(settings, _local_pool)
    try:
        if await _ends_before(stop, server.start()):
            _keep_collections_short()
            announce(server)
            await stop.wait()
            await _wind_down(server, settings, lame_duck, hurry)
    finally:
        await server.stop()
    _logger.info("stopped")


def _keep_collections_short() -> None:
    """Has the garbage collector leave alone what stays anyway: a look at all objects holds the event loop for long.

    It takes 0.2 s with the modules and some ten thousand architectures in flight, and would come all the time while a
    queue fills. Most of what requests leave behind in cycles is young, and found without it; `idle_memory` sees to the
    rest.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION_AFTER)


def _allow_open_files() -> None:
    """Lets this process open as many files as it may: every connection is one, and so is every pipe to a worker."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems have a limit below the one that they report
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _wind_down(server: Server, settings: Settings, lame_duck: float, hurry: asyncio.Event) -> None:
    """Lets a server finish its work, unless there is a hurry."""
    await server.leave()
    if lame_duck:
        _logger.info("stopping in %g s: requests are still taken until then", lame_duck)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), lame_duck)
    if hurry.is_set():
        return
    _logger.info("stopping: work in progress has %g s", settings.grace)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_ends_before(hurry, server.drain()), settings.grace)


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


def _local_pool(settings: Settings, observer: PoolObserver) -> Pool:
    """The pool of worker processes on this machine."""
    load = partial(
        TorchEngine, stack_size=settings.stack_size, cache_dir=settings.cache_dir or stack_sizes.default_directory()
    )
    return LocalPool(
        device=settings.device,
        workers=settings.workers,
        threads=settings.threads,
        data_dir=settings.data_dir,
        load=load,
        heartbeat_timeout=settings.heartbeat_timeout,
        batch_timeout=settings.batch_timeout,
        observer=observer,
    )
