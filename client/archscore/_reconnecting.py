"""Keeps a blocking client's channel connecting between the attempts at a call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import grpc

_METHOD: Final = "/grpc.health.v1.Health/Check"


@contextlib.contextmanager
def reconnecting(channel: grpc.Channel) -> Iterator[None]:
    """For a pause while the server is out of reach.

    gRPC before 1.74 works on a connection only while some call waits for it, and attempts that fail at once do not. So
    one waits here: for the health of the server, which costs it nothing and is for anybody to ask.
    """
    check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
    try:
        call = check.future(b"", wait_for_ready=True)
    except ValueError:  # The channel is closed.
        yield
        return
    try:
        yield
    finally:
        call.cancel()
