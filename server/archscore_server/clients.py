"""Who asks. Clients take turns and have limits, so that none shuts out another."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc

#: Metadata in which clients name themselves; those with one name take turns as one.
METADATA = "archscore-client-id"

#: Characters of a name that count.
MAX_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        name: `token:NAME` or `certificate:NAME` where the caller is known; else `id:ID` as the client says itself, or
            its connection.
        authenticated: whether the caller is known, and not just called so.
    """

    name: str
    authenticated: bool


_NOBODY = Caller("nobody", authenticated=False)

#: Who makes the RPC that is being served.
CALLER: ContextVar[Caller] = ContextVar("caller", default=_NOBODY)


def unknown(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """A caller who need not say who it is: has the name that it gave itself, else its connection's."""
    for key, value in context.invocation_metadata() or ():
        if key == METADATA and value:
            return Caller(f"id:{str(value)[:MAX_LENGTH]}", authenticated=False)
    return Caller(context.peer(), authenticated=False)
