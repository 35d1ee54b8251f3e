"""archscore-server, and how long its event loop is held: FILE OPTION..., where FILE is written when it ends.

FILE has a line for each look at the loop, every few milliseconds: seconds of the monotonic clock, which all processes
of a machine share; milliseconds by which the look came late; milliseconds that the loop's thread computed since the
last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from archscore_server import cli
from archscore_server.app import Server
from archscore_server.config import Settings
from archscore_server.run import serve

_INTERVAL = 0.002


async def look(seen: list[tuple[float, float, float]]) -> None:
    """Looks at the loop that it runs on, for ever."""
    due, computed = time.monotonic(), time.thread_time()
    while True:
        due += _INTERVAL
        await asyncio.sleep(due - time.monotonic())
        now, spent = time.monotonic(), time.thread_time()
        seen.append((now, 1e3 * (now - due), 1e3 * (spent - computed)))
        due, computed = now, spent


def read(path: Path) -> list[tuple[float, float, float]]:
    """What is in FILE."""
    rows = (map(float, line.split()) for line in path.read_text(encoding="utf-8").splitlines())
    return [(at, late, computed) for at, late, computed in rows]


def main() -> None:
    """Serves until a signal."""
    path, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]

    async def probed(settings: Settings, announce: Callable[[Server], None]) -> None:
        seen: list[tuple[float, float, float]] = []
        looking = asyncio.create_task(look(seen))
        try:
            await serve(settings, announce)
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
            lines = [f"{at:.6f} {late:.3f} {computed:.3f}\n" for at, late, computed in seen]
            await asyncio.to_thread(path.write_text, "".join(lines))

    with mock.patch.object(cli, "serve", probed):
        cli.main()


if __name__ == "__main__":
    main()
