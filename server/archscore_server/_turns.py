"""Whose turn it is: start-time fair queueing between clients, in seconds of slots."""

from __future__ import annotations

from collections import OrderedDict

#: Debts of clients with nothing in flight that are remembered; who left first is forgiven first. Clients that do not
#: name themselves are connections, which are many: what they owe must not fill the memory.
_MAX_DEBTS = 1_024


class Turns:
    """Virtual times of clients. The one with the least is next; it pays with the time that its work takes.

    Nobody saves up: who comes is at least where the clock is. Nobody runs away from a debt: who comes back is where it
    was, if the clock has not got there yet. Else a client that asks for one thing at a time would have every turn.
    """

    def __init__(self) -> None:
        """Nobody is there."""
        self._clock = 0.0
        self._times: dict[str, float] = {}
        self._present: dict[str, int] = {}
        self._debts: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Clients that have something in flight."""
        return len(self._present)

    def enter(self, client: str) -> None:
        """A client has one thing more in flight."""
        number = self._present.get(client, 0)
        self._present[client] = number + 1
        if not number:
            self._times[client] = max(self._debts.pop(client, self._clock), self._clock)

    def leave(self, client: str) -> None:
        """A client has one thing less in flight."""
        self._present[client] -= 1
        if self._present[client]:
            return
        del self._present[client]
        time = self._times.pop(client)
        if not self._present:
            self._debts.clear()  # Nobody is left whom it would matter to.
        elif time > self._clock:
            self._debts[client] = time
            if len(self._debts) > _MAX_DEBTS:
                self._debts.popitem(last=False)

    def time(self, client: str) -> float:
        """The virtual time of a client that has something in flight."""
        return self._times[client]

    def next(self, client: str) -> None:
        """It is this client's turn."""
        self._clock = max(self._clock, self._times[client])

    def charge(self, client: str, seconds: float) -> None:
        """Has a client that has something in flight pay for seconds of a slot; gives some back if negative."""
        self._times[client] += seconds
