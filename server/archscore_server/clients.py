"""Who asks. Clients take turns, so that none shuts out another."""

from __future__ import annotations

from typing import Any

import grpc

#: Metadata in which clients name themselves; those with one name take turns as one.
METADATA = "archscore-client-id"

#: Characters of a name that count.
_MAX_LENGTH = 64


def name(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The name that the client of a call gave itself, else its connection's."""
    for key, value in context.invocation_metadata() or ():
        if key == METADATA and value:
            return f"id:{str(value)[:_MAX_LENGTH]}"
    return context.peer()
