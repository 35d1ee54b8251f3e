"""The descriptors that every process has: 0, 1 and 2.

Whoever starts a server may have closed them. The next sockets would get these numbers then, and whatever writes to
stdout or stderr, be it a library in C, would write into the connection of a client.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

_logger = logging.getLogger(__name__)


def open_closed() -> None:
    """Has those that are closed lead nowhere. To be called before anything else is opened."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free, which is this one. Workers get it too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has none for what was closed when it started.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 -- of a descriptor
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def say(line: str) -> None:
    """Prints a line on stdout, or logs it where that leads to a full disk or to who has gone: no reason to end."""
    try:
        print(line, flush=True)  # noqa: T201
    except OSError as error:
        _logger.warning("stdout cannot be written to (%s): %s", error.strerror, line)
        with contextlib.suppress(OSError):
            sys.stdout.close()  # else Python would try again in the end, and complain
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
