"""How much each client has in flight: what it asked for and was not given yet, whether or not it waits for a worker.

A client that asks and never reads holds results here without end; this is what bounds them.
"""

from __future__ import annotations


class ClientFullError(Exception):
    """A client would have more architectures in flight than it may.

    Attributes:
        excess: how many more.
    """

    def __init__(self, excess: int) -> None:
        """Takes how many there are too many."""
        super().__init__(f"{excess} architectures too many in flight")
        self.excess = excess


class InFlight:
    """Architectures in flight, by client."""

    def __init__(self, most: int) -> None:
        """Nothing is in flight.

        Args:
            most: architectures that a client may have in flight.
        """
        self._most = most
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        """Clients that have something in flight."""
        return len(self._counts)

    def of(self, client: str) -> Share:
        """What a request of a client is to have in flight: nothing so far."""
        return Share(self, client)

    def change(self, client: str, by: int) -> None:
        """Counts architectures that a client asks for, or, below 0, was given.

        Raises:
            ClientFullError: it may not ask for so many now.
        """
        count = self._counts.get(client, 0) + by
        if by > 0 and count > self._most:
            raise ClientFullError(count - self._most)
        if count:
            self._counts[client] = count
        else:
            self._counts.pop(client, None)


class Share:
    """What one request has in flight.

    Attributes:
        count: architectures.
    """

    def __init__(self, in_flight: InFlight, client: str) -> None:
        """Made by `InFlight.of`."""
        self._in_flight = in_flight
        self._client = client
        self.count = 0

    def take(self, architectures: int) -> None:
        """The request asks for architectures.

        Raises:
            ClientFullError: the client may not have so many in flight now.
        """
        self._in_flight.change(self._client, architectures)
        self.count += architectures

    def give_back(self, architectures: int) -> None:
        """The client was given results, or does not want them any more."""
        self._in_flight.change(self._client, -architectures)
        self.count -= architectures
