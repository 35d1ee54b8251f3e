"""The server as a whole: from its first moment to its last."""

import asyncio
import os
import socket
import subprocess
import sys
import time

import grpc
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from archscore_server.app import Server, StartError, address
from archscore_server.config import Settings
from archscore_server.pool import PoolStartError
from support.serving import (
    TIMEOUT,
    PuppetPool,
    architecture,
    eventually,
    many,
    one,
    reason,
    results_of,
    retry_seconds,
    serving,
    status_of,
)

CELLS = [nasbench201.from_index(index).format() for index in (6111, 1462, 13714, 81, 1459)]
SERVICES = ["", "archscore.v1.ScoringService"]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    return [
        (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)).status
        for service in SERVICES
    ]


async def test_health_from_start_to_stop():
    async with serving(warm=False) as served:
        assert await health_of(served.channel) == [NOT_SERVING] * 2
        served.pool.workers_changed(1)
        await asyncio.sleep(0.01)
        assert await health_of(served.channel) == [NOT_SERVING] * 2

        served.pool.warm.set()
        await served.start
        assert await health_of(served.channel) == [SERVING] * 2

        served.pool.workers_changed(1)
        assert await health_of(served.channel) == [SERVING] * 2
        served.pool.workers_changed(0)
        await asyncio.sleep(0.01)
        assert await health_of(served.channel) == [NOT_SERVING] * 2
        assert served.metric("archscore_workers_ready") == 0
        served.pool.workers_changed(2)
        await asyncio.sleep(0.01)
        assert await health_of(served.channel) == [SERVING] * 2

        await served.server.drain()
        assert await health_of(served.channel) == [NOT_SERVING] * 2
        served.pool.workers_changed(1)
        await asyncio.sleep(0.01)
        assert await health_of(served.channel) == [NOT_SERVING] * 2


async def test_health_is_watched():
    async with serving(warm=False) as served:
        watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        served.pool.warm.set()
        assert (await watch.read()).status == SERVING
        await served.server.drain()
        assert (await watch.read()).status == NOT_SERVING
        started = time.monotonic()
        await served.server.stop()
        assert time.monotonic() - started < 2


async def test_what_needs_no_worker_works_at_once():
    async with serving(warm=False) as served:
        assert (await served.stub.ListProxies(scoring_pb2.ListProxiesRequest(), timeout=TIMEOUT)).proxies
        assert (
            await served.stub.ListSearchSpaces(scoring_pb2.ListSearchSpacesRequest(), timeout=TIMEOUT)
        ).search_spaces
        described = scoring_pb2.DescribeArchitectureRequest(architecture=architecture("index:1"))
        assert (await served.stub.DescribeArchitecture(described, timeout=TIMEOUT)).layers
        for call in (
            served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT),
            served.stub.ScoreArchitectures(many(CELLS), timeout=TIMEOUT),
            served.stub.GetServerInfo(scoring_pb2.GetServerInfoRequest(), timeout=TIMEOUT),
        ):
            status = await status_of(call)
            assert (status.code, reason(status)) == (code_pb2.UNAVAILABLE, "STARTING")
        served.pool.warm.set()
        await served.start
        assert await served.stub.GetServerInfo(scoring_pb2.GetServerInfoRequest(), timeout=TIMEOUT)


async def test_who_leaves_says_so_and_still_takes_requests(served):
    await served.server.leave()
    assert await health_of(served.channel) == [NOT_SERVING] * 2
    assert (await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)).evaluation.scores


async def test_draining_finishes_what_is_in_progress_and_refuses_what_is_new(served):
    served.pool.gate.clear()
    stream = asyncio.create_task(results_of(served.stub.ScoreArchitectures(many(CELLS), timeout=TIMEOUT)))
    unary = served.stub.ScoreArchitecture(one("index:99"), timeout=TIMEOUT)
    await eventually(lambda: served.server._scheduler.in_flight == 6)
    drained = asyncio.create_task(served.server.drain())
    await asyncio.sleep(0.01)
    for call in (
        served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT),
        served.stub.ScoreArchitectures(many(["garbage"]), timeout=TIMEOUT),
    ):
        status = await status_of(call)
        assert (status.code, reason(status), retry_seconds(status)) == (code_pb2.UNAVAILABLE, "DRAINING", 1)
        assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    assert not drained.done()
    served.pool.gate.set()
    assert all(result.HasField("evaluation") for result in (await stream).values())
    assert (await unary).evaluation.scores
    await drained


async def test_stopping_answers_what_cannot_be_finished(served):
    served.pool.gate.clear()
    encodings = [*CELLS, "garbage"]
    stream = asyncio.create_task(results_of(served.stub.ScoreArchitectures(many(encodings), timeout=TIMEOUT)))
    unary = asyncio.create_task(status_of(served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)))
    await eventually(lambda: served.metric("archscore_merged_total") == 1)
    await served.server.stop()
    results = await stream
    assert sorted(results) == list(range(6))
    assert results[5].error.code == code_pb2.INVALID_ARGUMENT
    for status in (await unary, *(results[index].error for index in range(5))):
        assert (status.code, reason(status), retry_seconds(status)) == (code_pb2.UNAVAILABLE, "DRAINING", 1)
    assert served.pool.stopped
    assert served.metric("archscore_architectures_total", space="nasbench201", outcome="refused") == 6


async def test_a_client_that_does_not_read_does_not_delay_the_end(served):
    call = served.stub.ScoreArchitectures(
        many(["|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"] * 10_000, ["tcet", "parameters"]), timeout=60
    )
    await call.read()
    started = time.monotonic()
    await served.server.stop()
    assert time.monotonic() - started < 3


async def test_ports_in_use(served):
    for settings, message in (
        (Settings(port=served.server.port, metrics_port=0), f"cannot listen on 127.0.0.1:{served.server.port}"),
        (
            Settings(port=0, metrics_port=served.server.metrics_port),
            f"cannot serve metrics on 127.0.0.1:{served.server.metrics_port}",
        ),
        (
            Settings(port=0, metrics_port=0, health_port=served.server.port),
            f"cannot listen on 127.0.0.1:{served.server.port}",
        ),
        (Settings(port=0, metrics_port=0, metrics_host="no.such.host.invalid"), "cannot serve metrics on no.such"),
    ):
        server = Server(settings, lambda _, observer: PuppetPool(observer))
        with pytest.raises(StartError, match=message):
            await server.start()
        await server.stop()
    assert await health_of(served.channel) == [SERVING] * 2


async def test_nobody_listens_on_a_network_by_accident():
    server = Server(Settings(host="", port=0, metrics_port=0), lambda _, observer: PuppetPool(observer))
    with pytest.raises(StartError, match="every address is not loopback, and the server has no encryption"):
        await server.start()
    assert server.port == 0
    await server.stop()


async def test_who_means_it_listens_on_a_network(caplog):
    settings = Settings(host="0.0.0.0", port=0, metrics_port=0, insecure=True)
    server = Server(settings, lambda _, observer: PuppetPool(observer))
    await server.start()
    assert "0.0.0.0 is served without encryption" in caplog.text
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert await health_of(channel) == [SERVING] * 2
    await server.stop()


async def test_workers_that_cannot_start():
    class BrokenPool(PuppetPool):
        async def start(self):
            raise PoolStartError("CUDA is not available")

    server = Server(Settings(port=0, metrics_port=0), lambda _, observer: BrokenPool(observer))
    with pytest.raises(StartError, match="the workers cannot start: CUDA is not available"):
        await server.start()
    await server.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_hosts(host):
    if host == "::1":
        try:
            socket.create_server((host, 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
    server = Server(
        Settings(host=host, port=0, metrics_host=host, metrics_port=0), lambda _, observer: PuppetPool(observer)
    )
    await server.start()
    async with grpc.aio.insecure_channel(address(host, server.port)) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        assert await stub.GetServerInfo(scoring_pb2.GetServerInfoRequest(), timeout=TIMEOUT)
    await server.stop()


def test_the_front_end_never_loads_torch():
    code = (
        "import asyncio, sys\n"
        "from support.serving import serving, one\n"
        "async def main():\n"
        "    async with serving() as served:\n"
        "        await served.stub.ScoreArchitecture(one('index:1'))\n"
        "        await served.stub.ScoreArchitecture(one('index:1', ['parameters']))\n"
        "asyncio.run(main())\n"
        "import archscore_server.cli\n"
        "sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))\n"
    )
    # the child finds the tests' helpers where this process does
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)
