"""The matrix of who may call: how the port is secured, times the token that is sent, times what is called.

Each cell says exactly what the client is told, and as whom it is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from archscore_server.access import token_file
from support.certificates import LOCAL, Authority, write
from support.serving import TIMEOUT, Serving, eventually, many, one, reason, results_of, serving, status_of

CELLS = [nasbench201.from_index(index).format() for index in (6111, 1462, 13714)]
SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE = "archscore.v1.ScoringService"

TRANSPORTS = ["plain", "TLS", "mutual TLS"]
CALLS = ["unary", "stream", "health", "watch", "reflection"]

Bearer = tuple[tuple[str, str], ...]
Connect = Callable[..., contextlib.AbstractAsyncContextManager[Serving]]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def connect(authority: Authority, tmp_path: Path) -> Connect:
    """Runs servers that are secured so, with a channel to each, over which its clients' certificate is shown."""

    def run(transport: str, certificate: Any = None, **options: Any) -> Any:
        if transport == "plain":
            return serving(**options)
        options |= authority.server_files(tmp_path)
        if transport == "mutual TLS":
            options["tls_client_ca"] = authority.certificate
            certificate = certificate or authority.issue("search@example.org", common_name="search")
        credentials = authority.channel_credentials(certificate)
        return serving(open_channel=functools.partial(grpc.aio.secure_channel, credentials=credentials), **options)

    return run


def bearer(token: str) -> Bearer:
    return (("authorization", f"Bearer {token}"),)


def call(channel: grpc.aio.Channel, kind: str, metadata: Bearer = ()) -> Any:
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    options: dict[str, Any] = {"metadata": metadata, "timeout": TIMEOUT}
    if kind == "unary":
        return stub.ScoreArchitecture(one(CELLS[0]), **options)
    if kind == "stream":
        return stub.ScoreArchitectures(many(CELLS), **options)
    if kind == "health":
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), **options)
    if kind == "watch":
        return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), **options)
    return reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(**options)


async def succeed(channel: grpc.aio.Channel, kind: str, metadata: Bearer = ()) -> None:
    """Makes a call, which must be answered in full."""
    ongoing = call(channel, kind, metadata)
    if kind == "unary":
        assert (await ongoing).evaluation.scores
    elif kind == "stream":
        assert len(await results_of(ongoing)) == len(CELLS)
    elif kind == "health":
        assert (await ongoing).status == SERVING
    elif kind == "watch":
        assert (await ongoing.read()).status == SERVING
        assert ongoing.cancel()  # it has no end of its own
        return
    else:
        # Not in `call`: grpc.aio takes it for an error of its own if a call ends while it still sends.
        await ongoing.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await ongoing.done_writing()
        assert [response async for response in ongoing]
    assert await ongoing.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("sent", ["no", "wrong", "right", "revoked", "no, none needed", "one, none needed"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_may_call(connect: Connect, tokens: Path, transport: str, sent: str, kind: str) -> None:
    token = token_file.add(tokens, "alice")
    needed = "none needed" not in sent
    anonymous = "certificate:search" if transport == "mutual TLS" else "anonymous"
    async with connect(transport, tokens=tokens if needed else None) as served:
        metadata = () if sent.startswith("no") else bearer(token[:-1] + "!" if sent == "wrong" else token)
        if sent == "revoked":
            await succeed(served.channel, kind, metadata)
            token_file.revoke(tokens, "alice")
        if kind in ("health", "watch") or sent == "right" or not needed:
            await succeed(served.channel, kind, metadata)
        else:
            status = await status_of(call(served.channel, kind, metadata))
            assert status.code == code_pb2.UNAUTHENTICATED
            assert reason(status) == ("TOKEN_MISSING" if sent == "no" else "TOKEN_INVALID")
            assert "alice" not in str(status)
            assert token not in str(status)
        answered = {"unary": 1, "stream": len(CELLS)}.get(kind, 0)
        counted = {
            client: served.metric("archscore_client_architectures_total", client=client)
            for client in ("token:alice", "certificate:search", "anonymous")
        }
        expected = dict.fromkeys(counted, 0)
        if sent in ("right", "revoked"):
            expected["token:alice"] = answered
        elif not needed:
            expected[anonymous] = answered
        assert counted == expected


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("method", [f"{SERVICE}/Nothing", "no.Service/Method", "x"])
async def test_who_is_not_known_is_not_told_what_there_is(
    connect: Connect, tokens: Path, transport: str, method: str
) -> None:
    token = token_file.add(tokens, "alice")
    async with connect(transport, tokens=tokens) as served:
        unknown = served.channel.unary_unary(f"/{method}")
        status = await status_of(unknown(b"", timeout=TIMEOUT))
        assert (status.code, reason(status)) == (code_pb2.UNAUTHENTICATED, "TOKEN_MISSING")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unknown(b"", metadata=bearer(token), timeout=TIMEOUT)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert served.metric("archscore_rpcs_total", method="other", code="UNAUTHENTICATED") == 1
        assert served.metric("archscore_rpcs_total", method="other", code="UNIMPLEMENTED") == 1
        assert served.metric("archscore_rpcs_total", method=method, code="UNAUTHENTICATED") == 0


async def test_who_is_not_known_is_refused_before_anything_is_read(connect: Connect, tokens: Path) -> None:
    token_file.add(tokens, "alice")
    async with connect("plain", tokens=tokens) as served:

        async def never() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        for method in (f"{SERVICE}/ScoreArchitecture", f"{SERVICE}/ScoreArchitectures"):
            # Like a client that sends nothing, or never ends.
            status = await status_of(served.channel.stream_stream(f"/{method}")(never(), timeout=TIMEOUT))
            assert status.code == code_pb2.UNAUTHENTICATED
            large = served.channel.unary_stream(f"/{method}")(bytes(8 * 2**20), timeout=TIMEOUT)
            assert (await status_of(large)).code == code_pb2.UNAUTHENTICATED
            assert served.metric("archscore_rpcs_total", method=method, code="UNAUTHENTICATED") == 2


async def test_refused_calls_are_logged_without_what_they_sent(
    connect: Connect, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token_file.add(tokens, "alice")
    async with connect("plain", tokens=tokens) as served:
        for _ in range(50):
            await status_of(call(served.channel, "unary", bearer("archscore.alice.guess")))
    refused = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 1 <= len(refused) < 50
    assert "127.0.0.1" in refused[0]
    assert "guess" not in caplog.text


# Certificates


async def answered(served: Serving, credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether a client with such credentials gets a connection."""
    address = f"127.0.0.1:{served.server.port}"
    # Each channel a connection of its own, as each process has.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.aio.secure_channel(address, credentials, options=options)
        if credentials
        else grpc.aio.insecure_channel(address, options=options)
    )
    async with channel:
        try:
            await succeed(channel, "health")
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


async def test_mutual_tls_lets_nobody_in_without_a_certificate_of_its_ca(
    connect: Connect, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    async with connect("mutual TLS") as served:
        assert not await answered(served, authority.channel_credentials())
        assert not await answered(served, authority.channel_credentials(other.issue("mallory@example.org")))
        assert not await answered(served, None)
        assert await answered(served, authority.channel_credentials(authority.issue("bob@example.org")))
        await succeed(served.channel, "unary")


async def test_a_plain_client_gets_no_connection_with_tls(connect: Connect, authority: Authority) -> None:
    async with connect("TLS") as served:
        assert not await answered(served, None)
        assert await answered(served, authority.channel_credentials())
        await succeed(served.channel, "unary")


@pytest.mark.parametrize(
    ("names", "common_name", "name"),
    [
        (["search@example.org"], "search 7", "search 7"),
        (["b.example.org", "a.example.org"], None, "b.example.org"),
        (["a@example.org"], "line\nbreak \u2028", "line?break ?"),
        (["a@example.org"], "é" * 32, "é" * 32),
        (["x" * 60 + ".example.org"], None, "x" * 60 + ".exa"),
    ],
    ids=["common name", "first alternative", "unprintable", "not ASCII", "long"],
)
async def test_the_name_in_a_certificate(
    connect: Connect, authority: Authority, names: list[str], common_name: str | None, name: str
) -> None:
    certificate = authority.issue(*names, common_name=common_name)
    async with connect("mutual TLS", certificate) as served:
        await succeed(served.channel, "unary")
        assert served.metric("archscore_client_architectures_total", client=f"certificate:{name}") == 1


def shown(port: int, context: ssl.SSLContext) -> bytes:
    """The certificate that a server shows on a new connection."""
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
        assert certificate
        return certificate


async def test_renewed_certificates_are_used_and_broken_ones_are_not(
    connect: Connect, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect("TLS") as served:

        async def look() -> bytes:
            return await asyncio.to_thread(shown, served.server.port, authority.client_context())

        first = await look()
        assert await look() == first

        renewed = authority.issue(*LOCAL)
        write(renewed, tmp_path / "server.pem", tmp_path / "server.key")
        second = await look()
        assert second == ssl.PEM_cert_to_DER_cert(renewed.cert_chain_pems[0].bytes().decode())

        write(authority.issue(*LOCAL), tmp_path / "server.pem", tmp_path / "unused.key")  # not the one of the key
        assert not [record for record in caplog.records if record.levelno == logging.ERROR]
        for _ in range(3):
            assert await look() == second
        [error] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert "server.key is not the key of" in error
        assert "server.pem" in error

        (tmp_path / "unused.key").replace(tmp_path / "server.key")
        third = await look()
        assert third not in (first, second)
        (tmp_path / "server.pem").unlink()
        assert await look() == third
        await succeed(served.channel, "unary")  # over the connection of the first


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "taken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
async def test_the_versions_of_tls(
    connect: Connect, authority: Authority, version: ssl.TLSVersion, taken: bool
) -> None:
    context = authority.client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    async with connect("TLS") as served:
        # Refused without an alert.
        with contextlib.nullcontext() if taken else pytest.raises(ssl.SSLError, match="EOF"):
            assert await asyncio.to_thread(shown, served.server.port, context)


# Names


async def test_callers_take_turns_under_the_names_of_their_tokens(connect: Connect, tokens: Path) -> None:
    callers = {name: bearer(token_file.add(tokens, name)) for name in ("alice", "bob")}
    async with connect("plain", tokens=tokens) as served:
        served.pool.gate.clear()
        occupied = [
            asyncio.create_task(
                results_of(served.stub.ScoreArchitectures(many([f"index:{i}"]), metadata=callers["alice"]))
            )
            for i in range(served.pool.slots)
        ]
        await eventually(lambda: len(served.pool.batches) == served.pool.slots)

        async def ask(name: str, first: int, count: int, own_id: str) -> None:
            encodings = [nasbench201.from_index(first + i).format() for i in range(count)]
            metadata = (*callers[name], ("archscore-client-id", own_id))
            await results_of(served.stub.ScoreArchitectures(many(encodings), metadata=metadata))

        # Alice asks under many names, and has one turn nevertheless.
        asked = [asyncio.create_task(ask("alice", 1_000 + 100 * i, 16, f"alice-{i}")) for i in range(4)]
        asked.append(asyncio.create_task(ask("bob", 2_000, 16, "bob")))
        await eventually(lambda: served.server._scheduler.queued == 80)
        before = len(served.pool.batches)
        served.pool.gate.set()
        await asyncio.gather(*occupied, *asked)
        bobs = {nasbench201.from_index(2_000 + i).format() for i in range(16)}
        order = [a.format() in bobs for batch in served.pool.batches[before:] for a in batch.architectures]
        assert len(order) == 80
        assert sum(order[:32]) >= 14
        assert served.metric("archscore_client_architectures_total", client="token:bob") == 16
        assert served.metric("archscore_client_architectures_total", client="token:alice") == 64 + len(occupied)


async def test_what_clients_call_themselves_names_them_where_nobody_is_known(connect: Connect) -> None:
    async with connect("plain") as served:
        metadata = (("archscore-client-id", "token:alice"),)
        await succeed(served.channel, "unary", metadata)
        assert served.metric("archscore_client_architectures_total", client="anonymous") == 1
        assert served.metric("archscore_client_architectures_total", client="token:alice") == 0


# Health


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_health_on_its_own_port(connect: Connect, tokens: Path, transport: str) -> None:
    token_file.add(tokens, "alice")
    async with connect(transport, tokens=tokens, health_port=0) as served:
        address = f"127.0.0.1:{served.server.health_port}"
        async with grpc.aio.insecure_channel(address) as channel:
            await succeed(channel, "health")
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            for kind in ("unary", "stream", "reflection"):
                ongoing = call(channel, kind)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await (ongoing if kind == "unary" else ongoing.read())
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            await served.server.leave()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_no_health_port_unless_asked_for(connect: Connect) -> None:
    async with connect("plain") as served:
        assert served.server.health_port == 0
        assert (await served.stub.GetServerInfo(scoring_pb2.GetServerInfoRequest(), timeout=TIMEOUT)).devices
