"""One face for both clients, so that one suite covers them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

import puppet_server
from archscore import AsyncClient, Client, Result
from puppet_server import Puppet


class Driver:
    """A client whose pauses take no time.

    Attributes:
        sleeps: pauses that were taken, in seconds.
        on_sleep: called in each pause.
    """

    def __init__(self):
        self.sleeps: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None

    def slept(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.on_sleep()


class SyncDriver(Driver):
    def __init__(self, target, **settings):
        super().__init__()
        self.client = Client(target, **settings)
        self.client._sleep = self.slept
        self.client._wait = lambda stopped, seconds: self.slept(seconds)

    def call(self, method, *args, **kwargs):
        return getattr(self.client, method)(*args, **kwargs)

    def many(self, *args, **kwargs):
        return self.client.score_many(*args, **kwargs)

    def close(self):
        self.client.close()


class AsyncDriver(Driver):
    def __init__(self, target, **settings):
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = AsyncClient(target, **settings)

        async def sleep(seconds):
            self.slept(seconds)

        self.client._sleep = sleep

    def call(self, method, *args, **kwargs):
        async def call():
            return await getattr(self.client, method)(*args, **kwargs)

        return self.runner.run(call())

    def many(self, *args, **kwargs):
        return self._results(self.client.score_many(*args, **kwargs))

    def _results(self, results) -> Iterator[Result]:
        async def step():
            return await anext(results, None)

        try:
            while (result := self.runner.run(step())) is not None:
                yield result
        finally:
            self.runner.run(results.aclose())

    def tasks(self):
        async def tasks():
            return [task for task in asyncio.all_tasks() if task.get_name() == "archscore-reader"]

        return self.runner.run(tasks())

    def close(self):
        self.runner.run(self.client.close())
        self.runner.close()


class Network:
    """A way to a server that can swallow what goes over it.

    Attributes:
        address: leads to the server.
        sent: what the client has sent.
    """

    def __init__(self, target: str):
        self.sent = bytearray()
        self._target = target.rsplit(":", 1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._swallowed: set[socket.socket] = set()
        self._threads[0].start()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def swallow(self):
        """From now on nothing arrives over the connections that there are, and none of them ends."""
        self._swallowed.update(self._ends)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._ends += near, far
                for ends in ((near, far, self.sent), (far, near, bytearray())):
                    self._threads.append(threading.Thread(target=self._pump, args=ends))
                    self._threads[-1].start()

    def _pump(self, source, sink, record):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                record += data
                if source not in self._swallowed:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Certificates:
    """Files that trustme made; the server's are for localhost and 127.0.0.1.

    Attributes:
        ca: who signed all but `other_ca`.
        other_ca: a CA that signed nothing here.
        server: certificate and key of the server.
        elsewhere: those of a server of another name.
        client: those of a client.
    """

    ca: Path
    other_ca: Path
    server: tuple[Path, Path]
    elsewhere: tuple[Path, Path]
    client: tuple[Path, Path]

    def credentials(self, *, elsewhere: bool = False, mutual: bool = False) -> grpc.ServerCredentials:
        """Of a server, maybe one of another name, or one that wants a certificate of the client."""
        certificate, key = self.elsewhere if elsewhere else self.server
        pair = (key.read_bytes(), certificate.read_bytes())
        roots = self.ca.read_bytes() if mutual else None
        return grpc.ssl_server_credentials([pair], roots, require_client_auth=mutual)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    ca, other = trustme.CA(), trustme.CA()
    for name, authority in (("ca", ca), ("other", other)):
        authority.cert_pem.write_to_path(directory / f"{name}.pem")

    def issue(*names: str) -> tuple[Path, Path]:
        issued = ca.issue_cert(*names)
        certificate, key = directory / f"{names[0]}.pem", directory / f"{names[0]}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    return Certificates(
        ca=directory / "ca.pem",
        other_ca=directory / "other.pem",
        server=issue("localhost", "127.0.0.1"),
        elsewhere=issue("elsewhere.example"),
        client=issue("client@example.org"),
    )


@pytest.fixture
def network(target):
    network = Network(target)
    yield network
    network.close()


@pytest.fixture
def puppet():
    return Puppet()


@pytest.fixture
def target(puppet):
    with puppet_server.serve(puppet) as address:
        yield address


@pytest.fixture
def serve(puppet):
    """Starts a server for the puppet, with credentials if there are any; gives its port."""
    with contextlib.ExitStack() as stack:

        def serve(credentials=None):
            server, port = puppet_server.start(puppet, credentials=credentials)
            stack.callback(lambda: server.stop(0).wait())
            return port

        yield serve


@pytest.fixture(params=[SyncDriver, AsyncDriver], ids=["sync", "async"])
def connect(request):
    """Makes a driver for a target."""
    drivers = []

    def connect(target, **settings):
        drivers.append(request.param(target, **settings))
        return drivers[-1]

    yield connect
    for driver in drivers:
        driver.close()


@pytest.fixture
def driver(connect, target):
    return connect(target)
