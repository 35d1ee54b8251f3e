"""What a peer can make the server hold before a request is read: connections, streams, metadata."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator

import grpc
import pytest

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from archscore_server import config, run
from fuzz.http2 import Connection
from support.serving import TIMEOUT, Serving, eventually, one, serving

CELLS = [nasbench201.from_index(index).format() for index in (6111, 1462, 13714, 81, 1459)]
INFO = scoring_pb2.GetServerInfoRequest()


@contextlib.asynccontextmanager
async def connected(served: Serving) -> AsyncIterator[scoring_pb2_grpc.ScoringServiceStub]:
    """A stub with a connection of its own."""
    target, options = f"127.0.0.1:{served.server.port}", [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield scoring_pb2_grpc.ScoringServiceStub(channel)


async def code_of(call: grpc.aio.UnaryUnaryCall) -> grpc.StatusCode:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call
    return await call.code()


@pytest.mark.parametrize(("size", "code"), [(15_000, "OK"), (16_384, "RESOURCE_EXHAUSTED"), (1_000_000, None)])
async def test_metadata_over_the_limit_is_refused_each_time(served, size, code):
    refused = {grpc.StatusCode[code]} if code else {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    for _ in range(5):
        call = served.stub.GetServerInfo(INFO, timeout=TIMEOUT, metadata=[("x", "y" * size)])
        assert await code_of(call) in refused
    assert await code_of(served.stub.GetServerInfo(INFO, timeout=TIMEOUT)) == grpc.StatusCode.OK


@pytest.mark.parametrize("bound", ["_MAX_CONNECTIONS", "_open_files"])
async def test_connections_over_the_limit_are_closed(monkeypatch, bound):
    monkeypatch.setattr(config, bound, 3 if bound == "_MAX_CONNECTIONS" else lambda: 6)
    async with serving() as served, contextlib.AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(connected(served)) for _ in range(6)]
        codes = [await code_of(stub.GetServerInfo(INFO, timeout=TIMEOUT)) for stub in stubs]
        assert codes.count(grpc.StatusCode.OK) == 3
        assert codes.count(grpc.StatusCode.UNAVAILABLE) == 3
        # Those that were let in stay, and make room when they go.
        assert await code_of(stubs[0].GetServerInfo(INFO, timeout=TIMEOUT)) == grpc.StatusCode.OK
        await stack.aclose()
        async with connected(served) as stub:
            call = stub.GetServerInfo(INFO, timeout=TIMEOUT, wait_for_ready=True)
            assert await code_of(call) == grpc.StatusCode.OK


async def test_streams_over_the_limit_wait_at_their_client(monkeypatch):
    monkeypatch.setattr(config, "_MAX_STREAMS", 2)
    async with serving() as served, connected(served) as other:
        await served.stub.GetServerInfo(INFO, timeout=TIMEOUT)  # from its answer on a client knows the limit
        served.pool.gate.clear()
        calls = [served.stub.ScoreArchitecture(one(cell), timeout=TIMEOUT) for cell in CELLS * 20]
        await eventually(lambda: served.server._scoring._active == 2)
        # Another connection has its own; and what is done for it would be done for the calls that wait, too.
        for _ in range(5):
            await other.GetServerInfo(INFO, timeout=TIMEOUT)
        assert served.server._scoring._active == 2
        served.pool.gate.set()
        await asyncio.gather(*calls)


async def test_a_connection_that_says_nothing_is_closed(monkeypatch):
    monkeypatch.setattr(config, "_HANDSHAKE_TIMEOUT_MS", 200)
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        async with asyncio.timeout(TIMEOUT):
            while await reader.read(1_000):  # the server's own greeting
                pass
        writer.close()


async def test_a_connection_that_falls_silent_is_closed(monkeypatch):
    """A peer that vanished, as one sees it from here: nothing comes any more, not even the answer to a ping."""
    monkeypatch.setattr(config, "_KEEPALIVE_TIME_MS", 1_000)  # the least that gRPC takes
    monkeypatch.setattr(config, "_KEEPALIVE_TIMEOUT_MS", 100)
    async with serving() as served:
        served.pool.gate.clear()
        peer = Connection(*await asyncio.open_connection("127.0.0.1", served.server.port))
        await peer.open()
        await peer.send(
            peer.call(1, "/archscore.v1.ScoringService/ScoreArchitecture", one(CELLS[0]).SerializeToString())
        )
        await eventually(lambda: served.server._scoring._active == 1)
        peer.listen(answering=False)
        await eventually(lambda: peer.closed)
        # What it asked for is given up.
        await eventually(lambda: served.server._scoring._active == 0)
        await peer.end(abort=False)
        served.pool.gate.set()


def test_a_server_may_open_as_many_files_as_its_process_may():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    try:
        run._allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
