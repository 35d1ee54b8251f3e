"""A short run of messages through the service, and what the judge of answers finds."""

import random
from typing import Any

import grpc
import pytest

from archscore_server.requests import ScoringRequest, ScoringRequests
from fuzz import wire
from fuzz.messages import call, run
from fuzz.payloads import METHODS, Payload, payload, request
from fuzz.run import LIMITS, MOST_BYTES, fuzz_messages
from fuzz.tally import ViolationError
from support.serving import serving


async def test_a_short_run() -> None:
    tally = await fuzz_messages(3, 0, 2_000)
    assert not tally.violations, "\n".join(tally.violations)
    assert tally.inputs == 2_000
    for method in METHODS:
        assert tally.outcomes[f"{method} OK"], tally.outcomes
        assert tally.outcomes[f"{method} INVALID_ARGUMENT"], tally.outcomes


async def test_growth_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    check = ScoringRequests.check

    def leak(*arguments: Any) -> ScoringRequest:
        kept.append(bytes([1]) * 2**20)
        return check(*arguments)

    monkeypatch.setattr(ScoringRequests, "check", leak)
    monkeypatch.setattr("fuzz.run.SLACK_HERE", 32 * 2**20)
    tally = await fuzz_messages(3, 0, 500)
    [violation] = tally.violations
    assert violation.startswith("memory grew by ")


async def test_an_answer_that_may_not_come_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("archscore_server.requests.describe_request", fail)
    async with serving(limits=LIMITS) as served:
        tally = await run(f"127.0.0.1:{served.server.port}", 3, 0, 200, target="messages", most_bytes=MOST_BYTES)
    assert tally.outcomes["DescribeArchitecture violation"] == len(tally.violations) > 5
    assert "INTERNAL" in tally.violations[0]


async def test_an_answer_that_does_not_come_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.messages.PATIENCE", 0.1)
    sent = Payload(
        "likely", "ScoreArchitecture", (request("ScoreArchitecture", random.Random(1), odd=0.0).SerializeToString(),)
    )
    async with serving(limits=LIMITS) as served:
        served.pool.gate.clear()
        with pytest.raises(ViolationError, match="no answer"):
            await call(served.channel, sent, most_bytes=MOST_BYTES)


def test_messages_of_every_method_and_kind_and_the_same_again() -> None:
    made = [payload(1, number, most_bytes=1_000) for number in range(3_000)]
    assert made == [payload(1, number, most_bytes=1_000) for number in range(3_000)]
    assert {sent.method for sent in made} == set(METHODS)
    assert {sent.kind for sent in made} == {"likely", "valid", "mutated", "merged", "foreign", "random", "large"}
    assert any(sent.leave is not None for sent in made)
    assert any(sent.deadline is not None for sent in made)


def test_records_of_a_message() -> None:
    message = request("ScoreArchitectures", random.Random(2), odd=0.0)
    data = message.SerializeToString(deterministic=True)
    parts = wire.records(data)
    assert b"".join(name + value for name, value in parts) == data
    assert len(parts) > len(message.architectures)
    with pytest.raises(ValueError, match="cut short"):
        wire.records(data[:-1])


async def test_a_compressed_message_is_refused() -> None:
    """In old versions of gRPC a megabyte of it may be gigabytes."""
    async with serving() as served:
        list_proxies = served.channel.unary_unary(METHODS["ListProxies"].path)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await list_proxies(b"\x12\x00" * 1_000, compression=grpc.Compression.Gzip, timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await list_proxies(b"\x12\x00" * 1_000, timeout=10)
