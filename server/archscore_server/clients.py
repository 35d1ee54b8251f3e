"""Who asks. Clients take turns and have limits, so that none shuts out another."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any
from urllib.parse import unquote

import grpc

#: Metadata in which clients name themselves; those with one name take turns as one.
METADATA = "archscore-client-id"

#: Characters of a name that count.
MAX_LENGTH = 64

#: Bits of an IPv6 address that tell hosts apart; the others are a host's own to choose.
_HOST_BITS = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        name: `token:NAME` or `certificate:NAME` where the caller is known; else `id:ID` as the client says itself, or
            `host:ADDRESS`, where its connections come from.
        authenticated: whether the caller is known, and not just called so.
    """

    name: str
    authenticated: bool


_NOBODY = Caller("nobody", authenticated=False)

#: Who makes the RPC that is being served.
CALLER: ContextVar[Caller] = ContextVar("caller", default=_NOBODY)


def unknown(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """A caller who need not say who it is: has the name that it gave itself, else its host's.

    A connection is no client: who opens ten would be ten of them.
    """
    for key, value in context.invocation_metadata() or ():
        if key == METADATA and value:
            return Caller(f"id:{str(value)[:MAX_LENGTH]}", authenticated=False)
    return Caller(f"host:{_host(context.peer())}", authenticated=False)


@lru_cache(1_024)  # calls of one connection, one after the other
def _host(peer: str) -> str:
    """Where a connection comes from, as gRPC says it (`ipv4:192.0.2.1:1234`): an address without the port.

    Of an IPv6 address the network: a host has all of it.
    """
    kind, _, address = peer.partition(":")
    host = unquote(address).rpartition(":")[0].strip("[]")
    try:
        ip = ip_address(host)
    except ValueError:  # a socket on this machine
        return kind
    if isinstance(ip, IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ip_network((ip.packed, _HOST_BITS), strict=False))
