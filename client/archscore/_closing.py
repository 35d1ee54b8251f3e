"""What the two stacks raise when a client is closed, as a UsageError."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import grpc.aio

from archscore.errors import UsageError


@contextlib.contextmanager
def blocking() -> Iterator[None]:
    """For the start of a blocking call.

    Raises:
        UsageError: the channel is closed.
    """
    try:
        yield
    except ValueError:
        raise _closed() from None


@contextlib.contextmanager
def asynchronous() -> Iterator[None]:
    """For an asynchronous call, from its start to its end: closing the channel cancels calls, but not who awaits them.

    Raises:
        UsageError: the channel is closed.
    """
    try:
        yield
    except grpc.aio.UsageError:
        raise _closed() from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _closed() from None


def _closed() -> UsageError:
    return UsageError("the client is closed")
