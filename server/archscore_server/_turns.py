"""Whose turn it is: start-time fair queueing between clients, in seconds of slots."""

from __future__ import annotations

#: Debts of clients with nothing in flight that are kept before it is looked which are paid.
_SLACK = 64


class Turns:
    """Virtual times of clients. The one with the least is next; it pays with the time that its work takes.

    Nobody saves up: who comes is at least where the clock is. Nobody runs away from a debt: who paid for more than its
    share is remembered until the others have caught up.
    """

    def __init__(self) -> None:
        """Nobody is there."""
        self._clock = 0.0
        # Of those that have something in flight, and of those that have not and are in debt.
        self._times: dict[str, float] = {}
        self._present: dict[str, int] = {}

    def __len__(self) -> int:
        """Clients that have something in flight."""
        return len(self._present)

    def enter(self, client: str) -> None:
        """A client has one thing more in flight."""
        count = self._present.get(client, 0)
        if not count:
            self._times[client] = max(self._times.get(client, self._clock), self._clock)
        self._present[client] = count + 1

    def leave(self, client: str) -> None:
        """A client has one thing less in flight."""
        self._present[client] -= 1
        if self._present[client]:
            return
        del self._present[client]
        if not self._present:
            self._times.clear()  # nobody is left to catch up
        elif self._times[client] <= self._clock:
            del self._times[client]
        elif len(self._times) > 2 * len(self._present) + _SLACK:
            self._times = {
                name: time for name, time in self._times.items() if name in self._present or time > self._clock
            }

    def time(self, client: str) -> float:
        """The virtual time of a client that has something in flight."""
        return self._times[client]

    def next(self, client: str) -> None:
        """It is this client's turn."""
        self._clock = max(self._clock, self._times[client])

    def charge(self, client: str, seconds: float) -> None:
        """Has a client pay for so many seconds of a slot; for fewer than it paid for, if negative."""
        if client in self._times:
            self._times[client] = max(self._times[client] + seconds, 0.0)
