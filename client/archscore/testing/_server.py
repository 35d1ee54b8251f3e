"""Starts a server in a process of its own, waits until it is ready, and stops it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from archscore.client import Client

_READY: Final = re.compile(r"^archscore-server listening on (\S+) metrics on (\S+)", re.MULTILINE)
_POLL: Final = 0.05
"""Seconds between looks at whether the server is ready. It takes some seconds to be."""
_STOP_TIMEOUT: Final = 30.0
"""Seconds after which a server that was told to stop is killed."""
_SHOWN: Final = 4_000
"""Characters of the log, its last ones, that an error shows."""
_METRICS_TIMEOUT: Final = 10.0


class ServerError(RuntimeError):
    """The server did not start. The message has what it said on stderr."""


class Server:
    """A running server.

    Attributes:
        address: HOST:PORT of the service.
        metrics_address: HOST:PORT of the Prometheus page.
        process: the server's process; its workers are children of it. A test may kill it.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, metrics_address: str, log: IO[str]) -> None:
        """Takes a process that is ready; `server` starts one."""
        self.address = address
        self.metrics_address = metrics_address
        self.process = process
        self._log = log

    def client(self, **settings: Any) -> Client:
        """A client of this server; it is the caller's to close.

        Args:
            settings: those of `archscore.Client`, but for the target. What is not given is taken from the environment
                variables that it reads.
        """
        # Not before: the server's own process imports this package, and has settings to make before gRPC is there.
        from archscore.client import Client

        return Client(self.address, **settings)

    def metric(self, name: str, **labels: str) -> float:
        """What the server's Prometheus page says of a metric: the sum of its samples with these labels, and others.

        Args:
            name: of the samples, as on the page: that of a counter ends in `_total`.
            labels: which samples; 0 where there is none.

        Raises:
            OSError: the server does not answer.
        """
        # Comes with the server, and is not needed before.
        from prometheus_client.parser import text_string_to_metric_families

        # The page is on this machine, whatever proxies the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.metrics_address}/metrics", timeout=_METRICS_TIMEOUT) as response:
            page = response.read().decode()
        samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def log(self) -> str:
        """What the server has said on stderr so far: its log, as JSON lines."""
        return _content(self._log)


@contextlib.contextmanager
def server(
    *,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    data_dir: str | Path | None = None,
    store: str | Path | None = None,
    workers: int | None = 1,
    threads: int | None = None,
    options: Sequence[str] = (),
    timeout: float = 120.0,
) -> Iterator[Server]:
    """Runs a server on free ports of this machine for as long as the context lasts.

    Starting takes some seconds, of which most is importing torch: share one among tests. In the end the server is
    stopped, whatever happens in the context, also if this very process is killed; work in progress is not waited for.
    `ARCHSCORE_...` variables of this process's environment are not those of the server.

    Args:
        device: where to evaluate.
        data_dir: directory with the real datasets.
        store: file in which scores are kept; None keeps them in memory.
        workers: worker processes; None leaves it to the server.
        threads: CPU threads of each worker; None leaves it to the server.
        options: more options of `archscore-server`, as in `["--limit-batch-size", "16"]`.
        timeout: seconds that the server may take until it is ready.

    Raises:
        ServerError: the server ended, or was not ready in time.
    """
    settings: dict[str, object] = {"port": 0, "metrics-port": 0, "device": device, "lame-duck": 0, "grace": 0}
    settings |= {"data-dir": data_dir, "store": store, "workers": workers, "threads": threads}
    chosen = [f"--{name}={value}" for name, value in settings.items() if value is not None]
    command = [sys.executable, "-m", "archscore.testing._guarded", *chosen, *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARCHSCORE_")}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        # In a session of its own, so that Ctrl-C reaches it through us only.
        subprocess.Popen(  # noqa: S603 -- the server, with what the caller asked for
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=log,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            address, metrics_address = _wait(process, output, log, timeout)
            yield Server(process, address, metrics_address, log)
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[str], output: IO[str], log: IO[str], timeout: float) -> tuple[str, str]:
    """Waits until the server is ready; returns where it and its metrics listen."""
    deadline = time.monotonic() + timeout
    while (ready := _READY.search(_content(output))) is None:
        if process.poll() is not None:
            raise ServerError(f"archscore-server ended with exit code {process.returncode}: {_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerError(f"archscore-server was not ready within {timeout:g} s: {_tail(log)}")
        time.sleep(_POLL)
    return ready[1], ready[2]


def _stop(process: subprocess.Popen[str]) -> None:
    """Stops a server in order, and kills it if that takes too long."""
    try:
        process.terminate()
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()


def _content(file: IO[str]) -> str:
    # Read through the descriptor, at a place of our own: the position in the file is also where the server writes.
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", "replace")


def _tail(log: IO[str]) -> str:
    said = _content(log).strip()
    return f"...{said[-_SHOWN:]}" if len(said) > _SHOWN else said or "it said nothing"
