"""Does harm to the workers of a server, every few seconds, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Final

from support.process import ServerProcess

#: Seconds between two acts.
_PAUSES: Final = (2.0, 5.0)

#: Seconds between two faults of a kind: by then the first has been found out, and what it hit has an answer. Else one
#: architecture could be hit three times, and given up as it should be, where an answer is expected.
_FAULT_PAUSE: Final = 20.0

#: Acts, and how often each is chosen. The last three wait for a request that asks for the proxy of that name.
_ACTS: Final = {"kill": 5, "stop": 2, "fault_kill_once": 1, "fault_stop_once": 1, "fault_hang_once": 1}


class Saboteur:
    """Kills and stops workers.

    Attributes:
        acts: how often it did what.
    """

    def __init__(self, server: ServerProcess, tokens: Path, rng: random.Random) -> None:
        """Takes what to harm.

        Args:
            server: the server.
            tokens: the directory in which the proxies of `faults` look for what they are to do once.
            rng: decides.
        """
        self.acts: Counter[str] = Counter()
        self._server = server
        self._tokens = tokens
        self._rng = rng
        self._last: dict[str, float] = {}

    async def work(self) -> None:
        """Does harm until it is cancelled."""
        while True:
            await asyncio.sleep(self._rng.uniform(*_PAUSES))
            [act] = self._rng.choices(list(_ACTS), list(_ACTS.values()))
            if act.startswith("fault_"):
                now = time.monotonic()
                if now - self._last.get(act, -_FAULT_PAUSE) < _FAULT_PAUSE:
                    continue
                self._last[act] = now
                (self._tokens / act).touch()
                self.acts[act] += 1
                continue
            workers = self._server.workers()
            if workers:
                # One that has just ended is no harm done.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._rng.choice(workers), signal.SIGKILL if act == "kill" else signal.SIGSTOP)
                    self.acts[act] += 1
