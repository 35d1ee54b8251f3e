"""The C library of this process, where it is glibc: how it hands out memory."""

from __future__ import annotations

import ctypes
import functools


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, with its own functions for memory; None where it is another."""
    try:
        found = ctypes.CDLL("libc.so.6")
        found.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return found


def give_back() -> None:
    """Gives the system what is free: glibc keeps it, most of it for ever, where anything that is in use lies behind it.

    Takes milliseconds, in which threads that need memory may have to wait; others go on.
    """
    if found := library():
        found.malloc_trim(0)
