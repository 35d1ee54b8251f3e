"""A real `archscore-server` in a process of its own, and what the kernel says of processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

READY = re.compile(r"archscore-server listening on (\S+) metrics on (\S+)")


@dataclass(frozen=True)
class Holdings:
    """What a process holds.

    Attributes:
        descriptors: open files, sockets and pipes.
        threads: its threads.
        children: processes that it has started and that are still there, zombies included.
        resident: bytes of memory.
    """

    descriptors: int
    threads: int
    children: int
    resident: int


class ServerProcess:
    """A running server.

    Attributes:
        process: its front end.
        address: HOST:PORT of the service.
        metrics_address: HOST:PORT of the metrics page.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, metrics_address: str) -> None:
        self.process = process
        self.address = address
        self.metrics_address = metrics_address

    def resident_bytes(self) -> int:
        """Memory of the front end and its workers."""
        return sum(resident_bytes(pid) for pid in [self.process.pid, *descendants(self.process.pid)])

    def workers(self) -> list[int]:
        """The worker processes, those that start included."""
        return children(self.process.pid)

    def stop(self, timeout: float = 60) -> int:
        """Stops it with SIGTERM; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def resident_bytes(pid: int) -> int:
    """Resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process lead to: paths, and kinds of what has none."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them, of this very process
            links.append(link.readlink().as_posix().partition(":[")[0])
    return sorted(links)


def holdings(pid: int) -> Holdings:
    """What a process holds now."""
    threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    return Holdings(len(descriptors(pid)), threads, len(children(pid)), resident_bytes(pid))


def children(pid: int) -> list[int]:
    """Processes that a process has started, from whichever of its threads; none once it has ended."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                found += [int(word) for word in (task / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    return [process for child in children(pid) for process in (child, *descendants(child))]


def marked(variable: str, value: str) -> list[int]:
    """Processes that were started with this environment variable, zombies aside."""
    mark = f"{variable}={value}".encode()
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            # Those that have just ended, and those of others.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if mark in (directory / "environ").read_bytes().split(b"\0"):
                    found.append(int(directory.name))
    return found


@contextlib.contextmanager
def server_process(
    *options: str, environment: Mapping[str, str] | None = None, log: IO[str] | None = None
) -> Iterator[ServerProcess]:
    """Starts a server on free ports, waits until it is ready, and stops it with SIGTERM in the end.

    Args:
        options: of its command line. Without any it stops at once, with no time as a lame duck.
        environment: variables besides those of this process.
        log: where its log goes, if not to this process's stderr.
    """
    own = ("--port", "0", "--metrics-port", "0", "--lame-duck", "0")
    command = [sys.executable, "-m", "archscore_server", *own, *options]
    variables = {**os.environ, **(environment or {})}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            ready = READY.fullmatch(process.stdout.readline().strip())
            assert ready, "the server did not come up"
            yield ServerProcess(process, ready[1], ready[2])
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            finally:
                process.kill()
