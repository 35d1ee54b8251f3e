"""Long computations on the event loop, in slices: clients in turn, and everything else in between.

A request may have thousands of architectures, and a client hundreds of such requests. What is done for each of them
takes microseconds; done in one go, they would hold up everybody else's answers for as long as all of them take.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

#: Seconds of an iteration of the event loop that slices may take, about.
_SECONDS = 0.001


class Slices:
    """Shares out the time of one event loop between clients. Who finds it idle waits for nothing."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Nobody waits.

        Args:
            clock: seconds.
        """
        self._clock = clock
        self._ends: float | None = None
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def over(self) -> bool:
        """Whether the slice that runs is to end: its computation asks for the next `turn` at its next good moment."""
        return self._ends is not None and self._clock() >= self._ends

    async def turn(self, client: str) -> None:
        """Returns when a computation of this client may go on: at once while there is time, else when its turn comes.

        A client with many computations gets as many turns as one with a single one.
        """
        if self._ends is None:
            self._begin()
        elif self._waiting or self.over:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(client, deque()).append(turn)
            await turn
            self._ends = self._clock() + _SECONDS

    def _begin(self) -> None:
        """A slice starts, or is about to: this iteration of the event loop has no time for others than it lets in."""
        self._ends = self._clock() + _SECONDS
        asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        """Gives the next iteration to the client whose turn it is."""
        self._ends = None
        while self._waiting:
            client, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns
            if not turn.done():  # else whoever waited has been cancelled
                turn.set_result(None)
                self._begin()
                return
