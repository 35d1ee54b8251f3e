"""The page, and that whatever happens to it scoring goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.registry import Collector

from archscore.spaces import nasbench201
from archscore_server.app import StartError
from archscore_server.metrics import MetricsPage, _page
from support.serving import TIMEOUT, Serving, eventually, one, serving

CELL = nasbench201.from_index(6111).format()

PROMTOOL = shutil.which("promtool")


def read(port: int, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return str(response.read().decode())


async def read_when_it_answers(port: int) -> str:
    """The page, once there is room for who asks."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            with contextlib.suppress(OSError):
                return await asyncio.to_thread(read, port)
            await asyncio.sleep(0.01)


async def assert_scores(served: Serving) -> None:
    await served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)


def threads() -> int:
    """Threads of connections."""
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


@contextlib.contextmanager
def connections(port: int, number: int, beginning: bytes) -> Iterator[list[socket.socket]]:
    """Connections that have said so much, and say no more."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
            with contextlib.suppress(OSError):  # ended already, to make room
                connection.sendall(beginning)
            opened.append(connection)
        yield opened


@pytest.mark.parametrize("beginning", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"])
async def test_connections_that_say_nothing_are_ended_to_make_room(served: Serving, beginning: bytes) -> None:
    port = served.server.metrics_port
    with connections(port, 200, beginning) as held:
        await assert_scores(served)
        await eventually(lambda: threads() <= _page._MAX_CONNECTIONS)
        assert "archscore_rpcs_total" in await read_when_it_answers(port)
        ended = [connection for connection in held if is_ended(connection)]
        assert len(ended) >= 200 - _page._MAX_CONNECTIONS
    await eventually(lambda: not threads())
    assert "archscore_rpcs_total" in read(port)


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


async def test_a_connection_ends_after_a_while_though_it_goes_on_talking(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_page, "_MAX_SECONDS", 0.2)
    with connections(served.server.metrics_port, 1, b"GET /metrics HTTP/1.1\r\n") as [connection]:
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionError):
                while True:
                    connection.sendall(b"a: b\r\n")
                    await asyncio.sleep(0.02)
    await eventually(lambda: not threads())


class Broken(Collector):
    """A collector that does harm, once it is armed."""

    def __init__(self, harm: Callable[[], None]) -> None:
        self._harm = harm

    def collect(self) -> Iterator[Any]:
        self._harm()
        yield from ()

    def describe(self) -> Iterator[Any]:
        yield from ()


async def test_a_page_that_cannot_be_made_is_said_to_be_so(served: Serving, caplog: pytest.LogCaptureFixture) -> None:
    def harm() -> None:
        raise KeyError("a fault of a collector")

    registry = served.server.metrics.registry
    broken = Broken(harm)
    registry.register(broken)
    with caplog.at_level(logging.ERROR):
        with pytest.raises(urllib.error.HTTPError, match="500") as caught:
            read(served.server.metrics_port)
        caught.value.close()
    assert [record.getMessage() for record in caplog.records] == ["the page of metrics cannot be made"]
    await assert_scores(served)
    registry.unregister(broken)
    assert "archscore_rpcs_total" in read(served.server.metrics_port)


async def test_a_page_that_hangs_keeps_few_threads_and_nobody_else(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_page, "_MAX_PAUSE", 0.0)
    go_on = threading.Event()
    registry = served.server.metrics.registry
    broken = Broken(lambda: [go_on.wait()][1:])  # type: ignore[arg-type, return-value]
    registry.register(broken)
    port = served.server.metrics_port
    with connections(port, 100, b"GET /metrics HTTP/1.0\r\n\r\n"):
        await assert_scores(served)
        await eventually(lambda: threads() == _page._MAX_THREADS)
        registry.unregister(broken)
        go_on.set()
        assert "archscore_rpcs_total" in await read_when_it_answers(port)
    await eventually(lambda: not threads())


async def test_pages_leave_the_interpreter_to_others() -> None:
    """After a page nothing is done for the next one, for three times as long as it took."""

    class Slow(Broken):
        def __init__(self) -> None:
            super().__init__(self._work)
            self.spans: list[tuple[float, float]] = []

        def _work(self) -> None:
            started = time.monotonic()
            time.sleep(0.02)
            self.spans.append((started, time.monotonic()))

    registry, slow = CollectorRegistry(), Slow()
    registry.register(slow)
    page = MetricsPage(registry, "127.0.0.1", 0)
    try:
        await asyncio.gather(*[asyncio.to_thread(read, page.port) for _ in range(4)])
    finally:
        page.close()
    assert len(slow.spans) == 4
    for (started, ended), (following, _) in zip(slow.spans, slow.spans[1:], strict=False):
        assert following - ended >= 3 * (ended - started)


async def test_a_page_that_is_closed_ends_its_connections() -> None:
    registry = CollectorRegistry()
    Gauge("a", "b", registry=registry)
    page = MetricsPage(registry, "127.0.0.1", 0)
    with connections(page.port, 3, b"GET") as held:
        await eventually(lambda: threads() == 3)
        await asyncio.to_thread(page.close)
        await eventually(lambda: not threads())
        assert all(map(is_ended, held))


async def test_a_port_in_use_is_a_wrong_option(served: Serving) -> None:
    with pytest.raises(StartError, match="cannot serve metrics"):
        async with serving(metrics_port=served.server.metrics_port):
            pass


async def test_buckets_carry_the_id_of_a_request_in_openmetrics(served: Serving) -> None:
    await assert_scores(served)
    page = read(served.server.metrics_port, "application/openmetrics-text; version=1.0.0")
    method = "archscore.v1.ScoringService/ScoreArchitecture"
    bucket = (
        rf'archscore_rpc_seconds_bucket{{code="OK",le="[^"]+",method="{method}"}} 1.0 # {{request_id="[0-9a-f]{{16}}"}}'
    )
    assert len(re.findall(bucket, page)) == 1
    assert page.endswith("# EOF\n")
    assert "request_id" not in read(served.server.metrics_port)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
async def test_promtool_has_nothing_to_say(served: Serving) -> None:
    await assert_scores(served)
    page = read(served.server.metrics_port)
    check = await asyncio.to_thread(
        subprocess.run, [str(PROMTOOL), "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (check.stdout + check.stderr).strip() == ""
    assert check.returncode == 0
