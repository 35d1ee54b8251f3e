"""Clients of a chaos run: they ask, try again as the contract says, and compare what comes with what must come."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from typing import Any, Final

import grpc.aio
from google.rpc import code_pb2

from archscore.v1 import scoring_pb2
from chaos.answers import Answer, Comparison, Fault, Reply, evaluation, failure, result
from chaos.asking import SERVICE, STREAM, UNARY, Request

#: Seconds for one attempt, and for a request with all its attempts: guards against hanging.
_TIMEOUT: Final = 180.0
_PATIENCE: Final = 600.0

#: Seconds after which a request is abandoned, at most.
_LONGEST_INTEREST: Final = 0.4

#: Each client has connections of its own.
_OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1)]


class Tally:
    """What became of the requests.

    Attributes:
        answered: requests that got their right answer, by kind.
        labels: the same, by what was special about them.
        abandoned: requests that were abandoned, by how.
        retried: attempts that the server asked to be made again, by why.
        architectures: right answers for single architectures.
        discrepancies: in words, one for each request that did not get its right answer.
        comparison: compares answers.
    """

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.abandoned: Counter[str] = Counter()
        self.retried: Counter[str] = Counter()
        self.architectures = 0
        self.discrepancies: list[str] = []
        self.comparison = Comparison()

    @property
    def ended(self) -> int:
        """Requests that are over."""
        return self.answered.total() + self.abandoned.total() + len(self.discrepancies)


async def run_client(address: str, work: deque[Request], tally: Tally, rng: random.Random) -> None:
    """Takes requests until there are none left."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        while work:
            request = work.popleft()
            if request.abandoned:
                await _abandon(address, channel, request, rng)
                tally.abandoned[request.abandoned] += 1
                continue
            try:
                async with asyncio.timeout(_PATIENCE):
                    differences = await _ask(channel, request, tally, rng)
            except TimeoutError:
                differences = [f"no answer within {_PATIENCE:.0f} s"]
            if differences:
                tally.discrepancies.append(f"{request.kind} request ({request.label}, {_name(request)}): {differences}")
            else:
                tally.answered[request.kind] += 1
                tally.labels[request.label] += 1
                tally.architectures += 0 if isinstance(request.expected, Fault) else len(request.expected)


async def _ask(channel: grpc.aio.Channel, request: Request, tally: Tally, rng: random.Random) -> list[str]:
    """Asks until there is an answer that is final; returns what is wrong with it."""
    while True:
        try:
            reply = await _reply(_call(channel, request, _TIMEOUT), request)
        except grpc.aio.AioRpcError as error:
            reply = failure(error)
        except _TwiceError as error:
            return [str(error)]
        if not _again(reply):
            return tally.comparison.differences(request.expected, reply)
        assert reply.fault is not None
        tally.retried[reply.fault.reason or "no answer"] += 1
        if reply.fault.reason and (reply.retry_after is None or reply.pushback is None):
            return [f"{reply.fault} does not say when to come back: {reply}"]
        await asyncio.sleep((reply.retry_after or 0.1) * rng.uniform(1.0, 1.5))


def _again(reply: Reply) -> bool:
    """Whether the contract says to ask again."""
    fault = reply.fault
    return fault is not None and (fault.code == code_pb2.UNAVAILABLE or fault.reason == "QUEUE_FULL")


async def _reply(call: Any, request: Request) -> Reply:
    if not request.streams:
        response = scoring_pb2.ScoreArchitectureResponse.FromString(await call)
        return Reply({0: evaluation(response.evaluation)})
    answers: dict[int, Answer] = {}
    async for body in call:
        for message in scoring_pb2.ScoreArchitecturesResponse.FromString(body).results:
            if message.index in answers:
                raise _TwiceError(f"answered [{message.index}] twice")
            answers[message.index] = result(message)
    return Reply(answers)


class _TwiceError(Exception):
    """An architecture was answered more than once."""


async def _abandon(address: str, channel: grpc.aio.Channel, request: Request, rng: random.Random) -> None:
    """Asks, and does not wait for the end of it."""
    interest = rng.uniform(0, _LONGEST_INTEREST)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError, grpc.aio.UsageError):
        if request.abandoned == "expired":
            await _reply(_call(channel, request, interest), request)
        elif request.abandoned == "closed":
            async with grpc.aio.insecure_channel(address, options=_OPTIONS) as own:
                reading = asyncio.ensure_future(_reply(_call(own, request, _TIMEOUT), request))
                await asyncio.wait({reading}, timeout=interest)
            await reading
        else:
            call = _call(channel, request, _TIMEOUT)
            await asyncio.sleep(interest)
            call.cancel()


def _call(channel: grpc.aio.Channel, request: Request, timeout: float) -> Any:
    """Begins a call; bytes go out and bytes come in, since not all requests are messages."""
    make = channel.unary_stream if request.streams else channel.unary_unary
    metadata = () if request.client is None else (("archscore-client-id", request.client),)
    return make(request.method)(request.body, timeout=timeout, metadata=metadata)


def _name(request: Request) -> str:
    return {UNARY: "unary", STREAM: "stream"}.get(request.method, request.method.removeprefix(SERVICE))
