"""What every RPC of every service gets: decoding errors, unexpected errors, counting."""

import asyncio
import functools
import gc
import logging
import types

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2
from support.serving import (
    TIMEOUT,
    details,
    eventually,
    many,
    one,
    reason,
    serving,
    status_of,
    violations,
)

CELL = nasbench201.from_index(6111).format()
SERVICE = "archscore.v1.ScoringService"
UNARY = ["ScoreArchitecture", "DescribeArchitecture", "ListProxies", "ListSearchSpaces", "GetServerInfo"]
UNDECODABLE = {
    "no field": b"\xff\xff\xff\xff",
    "cut short": b"\x0a\x7fabc",
    "wrong wire type": b"\x0b",
    "not UTF-8": b"\x12\x02\xff\xfe",
}


def raw_call(channel, method, sent):
    if method.endswith("ServerReflectionInfo"):
        return channel.stream_stream(f"/{method}")(iter([sent]), timeout=TIMEOUT)
    make = channel.unary_stream if method.endswith(("ScoreArchitectures", "Watch")) else channel.unary_unary
    return make(f"/{method}")(sent, timeout=TIMEOUT)


@pytest.mark.parametrize(
    "method",
    [
        *(f"{SERVICE}/{method}" for method in UNARY),
        f"{SERVICE}/ScoreArchitectures",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_undecodable_bytes_are_invalid_on_every_rpc(served, method):
    status = await status_of(raw_call(served.channel, method, b"\xff\xff\xff\xff"))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert violations(status) == {"": "the request cannot be decoded as a message of the method's request type"}
    assert served.metric("archscore_rpcs_total", method=method, code="INVALID_ARGUMENT") == 1
    assert served.metric("archscore_rpc_seconds_count", method=method) == 1


@pytest.mark.parametrize("sent", UNDECODABLE.values(), ids=UNDECODABLE)
async def test_whatever_makes_bytes_undecodable(served, sent):
    for method in ("ScoreArchitecture", "ScoreArchitectures"):
        status = await status_of(raw_call(served.channel, f"{SERVICE}/{method}", sent))
        assert status.code == code_pb2.INVALID_ARGUMENT


async def test_undecodable_bytes_late_in_a_stream(served):
    async def requests():
        yield b"\x3a\x00"  # list_services
        yield b"\xff\xff"

    call = served.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(requests())
    assert SERVICE.encode() in await call.read()
    assert (await status_of(call)).code == code_pb2.INVALID_ARGUMENT


async def test_empty_bytes_are_an_empty_message(served):
    status = await status_of(raw_call(served.channel, f"{SERVICE}/ScoreArchitecture", b""))
    assert list(violations(status)) == ["architecture.space", "proxies"]


async def test_unexpected_errors_tell_the_log_and_not_the_client(served, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("archscore_server.requests.ScoringRequests.check", fail)
    for method, request in ((served.stub.ScoreArchitecture, one(CELL)), (served.stub.ScoreArchitectures, many([CELL]))):
        caplog.clear()
        status = await status_of(method(request, timeout=TIMEOUT))
        assert status.code == code_pb2.INTERNAL
        assert reason(status) == "INTERNAL"
        request_id = details(status)[error_details_pb2.ErrorInfo].metadata["request_id"]
        assert request_id in status.message
        assert "secret" not in str(status)
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "secret" in str(record.exc_info[1])


async def test_errors_after_the_first_response_too(served, monkeypatch):
    served.pool.gate.clear()
    call = served.stub.ScoreArchitectures(many(["garbage", CELL]), timeout=TIMEOUT)
    await call.read()

    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("archscore_server.responses.write_evaluation", fail)
    served.pool.gate.set()
    assert (await status_of(call)).code == code_pb2.INTERNAL


async def test_unknown_methods_are_counted_together(served):
    for method in ("/archscore.v1.ScoringService/Nothing", "/no.Service/Method", "/x"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.channel.unary_unary(method)(b"", timeout=TIMEOUT)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert served.metric("archscore_rpcs_total", method="other", code="UNIMPLEMENTED") == 3


async def test_answers_are_counted_before_they_are_seen(served):
    labels = {"method": f"{SERVICE}/ScoreArchitecture"}
    for count in range(1, 20):
        await served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)
        assert served.metric("archscore_rpcs_total", code="OK", **labels) == count
        await status_of(served.stub.ScoreArchitecture(one(""), timeout=TIMEOUT))
        assert served.metric("archscore_rpcs_total", code="INVALID_ARGUMENT", **labels) == count


async def test_cancelled_and_late_calls_are_counted(served, caplog):
    served.pool.gate.clear()
    call = served.stub.ScoreArchitectures(many([CELL, "garbage"]), timeout=TIMEOUT)
    await call.read()
    call.cancel()
    late = served.stub.ScoreArchitecture(one(CELL), timeout=0.1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await late
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    for method, code in (("ScoreArchitectures", "CANCELLED"), ("ScoreArchitecture", "DEADLINE_EXCEEDED")):
        labels = {"method": f"{SERVICE}/{method}", "code": code}
        await eventually(lambda labels=labels: served.metric("archscore_rpcs_total", **labels) == 1)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_health_of_an_unknown_service_is_its_own_error(served):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    health = health_pb2_grpc.HealthStub(served.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="no.such"), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_and_describes_the_services(served):
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, described = [response async for response in reflection.ServerReflectionInfo(iter(asked), timeout=TIMEOUT)]
    assert {service.name for service in listed.list_services_response.service} == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert scoring_pb2.DESCRIPTOR.serialized_pb in described.file_descriptor_response.file_descriptor_proto


def handlers():
    """The streams that are being answered."""
    name = "CallInterceptor.intercept_service.<locals>.stream"
    # By type: isinstance() asks every object for its class, and some answer with a warning.
    coroutines = [found for found in gc.get_objects() if type(found) is types.CoroutineType]
    return [found for found in coroutines if found.__qualname__ == name]


def deaf_channel(window):
    """Opens channels that take in no more than so many bytes of what is not read."""
    options = [
        ("grpc.http2.lookahead_bytes", window),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return functools.partial(grpc.aio.insecure_channel, options=options)


async def test_a_client_that_takes_nothing_in_is_given_up():
    async with serving(open_channel=deaf_channel(1), write_timeout=0.1) as served:
        scored = f"{SERVICE}/ScoreArchitectures"
        # The first response is small, but not as small as this client's window.
        stuck = served.stub.ScoreArchitectures(many([f"index:{index}" for index in range(50)]), timeout=TIMEOUT)
        await eventually(lambda: served.metric("archscore_rpcs_total", method=scored, code="CANCELLED") == 1)
        await asyncio.wait_for(served.server._scoring.idle(), TIMEOUT)
        await eventually(lambda: served.server._scheduler.in_flight == 0 and not handlers())
        stuck.cancel()
        assert (await served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)).evaluation.scores


async def test_a_client_that_does_not_read_is_given_up(caplog):
    async with serving(open_channel=deaf_channel(65_535), write_timeout=0.3) as served:
        proxies = ["tcet", "ssnr", "naswot", "synflow", "zen"]
        scored = f"{SERVICE}/ScoreArchitectures"
        encodings = [f"index:{index}" for index in range(3_000)]
        stuck = served.stub.ScoreArchitectures(many(encodings, proxies), timeout=TIMEOUT)
        await stuck.read()
        assert handlers()
        await eventually(lambda: served.metric("archscore_rpcs_total", method=scored, code="UNAVAILABLE") == 1)
        await eventually(lambda: served.server._scheduler.in_flight == 0)
        assert served.metric("archscore_queued_architectures") == 0
        await asyncio.wait_for(served.server._scoring.idle(), TIMEOUT)
        outcomes = {
            outcome: served.metric("archscore_architectures_total", space="nasbench201", outcome=outcome)
            for outcome in ("ok", "degenerate", "cancelled")
        }
        assert sum(outcomes.values()) == 3_000
        assert outcomes["cancelled"] > 0
        # The handler and what it holds are gone too, though the client knows nothing yet.
        await eventually(lambda: not handlers())
        # Who reads after all is told why there is no more.
        status = await status_of(stuck)
        assert (status.code, reason(status)) == (code_pb2.UNAVAILABLE, "CLIENT_NOT_READING")
        assert "has not read for 0.3 s" in status.message
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
        assert (await served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)).evaluation.scores


async def test_a_client_that_reads_slowly_is_not():
    async with serving(write_timeout=0.5) as served:
        served.pool.gate.clear()
        call = served.stub.ScoreArchitectures(many([CELL, "garbage"]), timeout=TIMEOUT)
        await call.read()
        # Nothing is written meanwhile: it is the server that takes its time.
        await asyncio.sleep(0.7)
        served.pool.gate.set()
        assert len((await call.read()).results) == 1
        assert await call.code() is grpc.StatusCode.OK
