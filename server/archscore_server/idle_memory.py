"""The memory of the front end while it has nothing to do."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

from archscore_server import glibc

#: Seconds in which nothing may have happened.
_QUIET_SECONDS = 2.0


async def give_back_when_idle(idle: Callable[[], Awaitable[None]]) -> None:
    """Gives the system what requests have left behind, each time that none has come for a moment. Has no end.

    What lived through a long request and ended in a cycle is found by a collection of all objects alone, which `run`
    makes rare; and most of what is freed glibc keeps.

    Args:
        idle: returns when nothing is in progress.
    """
    seen, tidy = 0, False
    while True:
        await asyncio.sleep(_QUIET_SECONDS)
        await idle()
        before, seen = seen, _young_collections()
        if seen != before:
            tidy = False
        elif not tidy:
            tidy = True
            gc.collect()
            await asyncio.to_thread(glibc.give_back)


def _young_collections() -> int:
    """Rises with every few hundred objects that are made, and not by a collection of all."""
    young, *_ = gc.get_stats()
    return int(young["collections"])
