"""A real `archscore-server` in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

READY = re.compile(r"archscore-server listening on (\S+) metrics on (\S+)")


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


def resident_bytes(pid: int) -> int:
    """Resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


@contextlib.contextmanager
def server_process(*options: str) -> Iterator[ServerProcess]:
    """Starts a server on free ports, waits until it is ready, and stops it with SIGTERM in the end."""
    command = [sys.executable, "-m", "archscore_server", "--port", "0", "--metrics-port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
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
