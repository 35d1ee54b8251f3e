"""The standard health service, which follows the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2


class Health:
    """Tells load balancers whether to send work here.

    NOT_SERVING until `open`, whenever no worker is ready, and from `close` on.

    Attributes:
        servicer: what answers Check and Watch.
    """

    def __init__(self, services: Sequence[str]) -> None:
        """Takes the names of the services; the server as a whole ("") is always one."""
        self.servicer = health.aio.HealthServicer()
        self._services = ("", *services)
        self._open = False
        self._workers_ready = True
        self._updates: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Says NOT_SERVING: the stock servicer would say SERVING."""
        await self._update()

    async def open(self) -> None:
        """Follows the workers from now on."""
        self._open = True
        await self._update()

    def workers_changed(self, ready: int) -> None:
        """So many workers are ready now."""
        if (ready > 0) != self._workers_ready:
            self._workers_ready = ready > 0
            update = asyncio.create_task(self._update())
            self._updates.add(update)
            update.add_done_callback(self._updates.discard)

    async def close(self) -> None:
        """Says NOT_SERVING, whatever happens from now on."""
        await self.servicer.enter_graceful_shutdown()

    async def _update(self) -> None:
        serving = self._open and self._workers_ready
        response = health_pb2.HealthCheckResponse
        for service in self._services:
            await self.servicer.set(service, response.SERVING if serving else response.NOT_SERVING)
