"""Sends messages to a running service, many at a time, and judges every answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from archscore.v1 import scoring_pb2
from fuzz.payloads import METHODS, Method, Payload, payload
from fuzz.tally import Tally, ViolationError

#: Seconds after which an answer is taken not to come.
PATIENCE: Final = 120.0

#: Bytes of trailers, counted as HTTP/2 does: peers may refuse more. And characters of the message alone.
LARGEST_TRAILERS: Final = 8 * 2**10
LONGEST_MESSAGE: Final = 1_000

#: Callers at a time, and connections that they share.
CALLERS: Final = 48
CONNECTIONS: Final = 6

#: Responses of a stream that are read. A health Watch has no end.
_MOST_RESPONSES: Final = 100_000

#: Bytes of an answer of reflection besides the request that it repeats, at most.
_REPEATED: Final = 2**16

_Code = grpc.StatusCode
_COMMON: Final = {_Code.OK, _Code.INVALID_ARGUMENT, _Code.RESOURCE_EXHAUSTED}

#: What each RPC may answer. OUT_OF_RANGE, INTERNAL, UNKNOWN, UNIMPLEMENTED and UNAVAILABLE are nowhere.
ALLOWED: Final = {
    **dict.fromkeys(METHODS, _COMMON),
    **dict.fromkeys(
        ("ScoreArchitecture", "ScoreArchitectures", "DescribeArchitecture"), _COMMON | {_Code.FAILED_PRECONDITION}
    ),
    "Check": _COMMON | {_Code.NOT_FOUND},
}

#: What the result for one architecture of many may be, besides scores; with details, and where there is a deadline.
ALLOWED_RESULTS: Final = {_Code.INVALID_ARGUMENT.value[0], _Code.RESOURCE_EXHAUSTED.value[0]}
_LATE: Final = _Code.DEADLINE_EXCEEDED.value[0]

_DETAILS: Final = {
    _Code.INVALID_ARGUMENT: error_details_pb2.BadRequest,
    _Code.RESOURCE_EXHAUSTED: error_details_pb2.ErrorInfo,
    _Code.FAILED_PRECONDITION: error_details_pb2.ErrorInfo,
}


async def run(
    address: str,
    seed: int,
    first: int,
    inputs: int,
    *,
    target: str,
    most_bytes: int,
    last: float = float("inf"),
    progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Sends messages from number `first` on.

    Args:
        address: HOST:PORT of the service.
        seed: with the number, makes a message.
        first: number of the first.
        inputs: how many.
        target: name of the tally.
        most_bytes: of a message that the server takes.
        last: by `time.monotonic`, when no more are begun.
        progress: told now and then.
    """
    tally, started = Tally(target), time.monotonic()
    numbers = iter(range(first, first + inputs))
    async with contextlib.AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 2**26)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for _ in range(CONNECTIONS)
        ]
        async with asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                channel = channels[number % CONNECTIONS]
                callers.create_task(_call_all(channel, seed, numbers, tally, most_bytes, last, progress))
    tally.seconds = time.monotonic() - started
    return tally


async def _call_all(
    channel: grpc.aio.Channel,
    seed: int,
    numbers: Iterator[int],
    tally: Tally,
    most_bytes: int,
    last: float,
    progress: Callable[[Tally], None],
) -> None:
    for number in numbers:
        if time.monotonic() > last:
            return
        sent = payload(seed, number, most_bytes=most_bytes)
        try:
            outcome = await call(channel, sent, most_bytes=most_bytes)
        except ViolationError as error:
            outcome = "violation"
            bodies = [body[:1_000] for body in sent.bodies]
            tally.violation(f"input {number} ({sent.kind}, {sent.method}): {error}: {bodies} with {sent.metadata}")
        tally.count(f"{sent.method} {sent.kind}", f"{sent.method} {outcome}")
        progress(tally)


async def call(channel: grpc.aio.Channel, sent: Payload, *, most_bytes: int) -> str:
    """Makes a call and judges what comes.

    Returns:
        The code of the answer, or that the caller left.

    Raises:
        ViolationError: the answer is not one that may come.
    """
    method = METHODS[sent.method]
    responses: list[Message] = []
    started = _start(channel, method, sent)
    try:
        async with asyncio.timeout(sent.leave):
            await _read(started, method, sent, responses)
    except TimeoutError:
        started.cancel()
        return "left"
    except grpc.aio.AioRpcError as error:
        return _judge(error, sent, most_bytes)
    finally:
        started.cancel()
    if method.request is scoring_pb2.ScoreArchitecturesRequest:
        _judge_results(method.request.FromString(sent.bodies[0]), responses, hurries=sent.deadline is not None)
    if method.request is scoring_pb2.ScoreArchitectureRequest:
        _judge_evaluation(method.request.FromString(sent.bodies[0]), responses[0].evaluation)
    return _Code.OK.name


def _start(channel: grpc.aio.Channel, method: Method, sent: Payload) -> Any:
    timeout = PATIENCE if sent.deadline is None else sent.deadline
    if method.client_streams:
        return channel.stream_stream(method.path)(timeout=timeout, metadata=sent.metadata)
    make = channel.unary_stream if method.server_streams else channel.unary_unary
    return make(method.path)(sent.bodies[0], timeout=timeout, metadata=sent.metadata)


async def _read(started: Any, method: Method, sent: Payload, responses: list[Message]) -> None:
    async for body in _bodies(started, method, sent.bodies):
        try:
            responses.append(method.response.FromString(body))
        except DecodeError as error:
            # Reflection repeats the request: one whose groups are as deep as can be read makes an answer that cannot.
            if not method.client_streams or not any(_repeated(sent_body, method) in body for sent_body in sent.bodies):
                raise ViolationError(f"the answer is no {method.response.DESCRIPTOR.name}") from error
        if method.path.endswith("Watch"):
            return
        if len(responses) > _MOST_RESPONSES:
            raise ViolationError("a stream without end")


def _repeated(body: bytes, method: Method) -> bytes:
    """A request as reflection repeats it; as it was sent where it cannot be read."""
    try:
        return method.request.FromString(body).SerializeToString()
    except DecodeError:
        return body


async def _bodies(started: Any, method: Method, bodies: Sequence[bytes]) -> AsyncIterator[bytes]:
    if not method.server_streams:
        yield await started
        return
    if method.client_streams:
        # One at a time: a write that meets the end of the call makes grpc.aio say INTERNAL, whatever the server said.
        with contextlib.suppress(grpc.aio.InternalError):
            for body in bodies:
                await started.write(body)
                if (response := await started.read()) is grpc.aio.EOF:
                    return
                yield response
            await started.done_writing()
    while (response := await started.read()) is not grpc.aio.EOF:
        yield response


def _judge(error: grpc.aio.AioRpcError, sent: Payload, most_bytes: int) -> str:
    code: grpc.StatusCode = error.code()
    if code is _Code.DEADLINE_EXCEEDED:
        _require(sent.deadline is not None, f"no answer within {PATIENCE:.0f} s")
        return code.name
    message = error.details() or ""
    _require(code in ALLOWED[sent.method], f"{code.name}: {message[:500]}")
    trailers = tuple(error.trailing_metadata() or ())
    size = sum(len(key) + len(value) + 32 for key, value in trailers) + len(message)
    _require(size < LARGEST_TRAILERS, f"{size} bytes of trailers")
    _require(len(message) <= LONGEST_MESSAGE and message.isprintable(), f"not one short line: {message!r}")
    # Reflection repeats the request in its answer, which may be too large then.
    room = most_bytes - (_REPEATED if METHODS[sent.method].client_streams else 0)
    too_large = any(len(body) > room for body in sent.bodies)
    if code is _Code.NOT_FOUND or (code is _Code.RESOURCE_EXHAUSTED and too_large):
        return code.name
    [packed] = [value for key, value in trailers if key == "grpc-status-details-bin"] or [b""]
    status = status_pb2.Status.FromString(packed)
    _require((status.code, status.message) == (code.value[0], message), f"details that say else: {status}")
    _require(any(detail.Is(_DETAILS[code].DESCRIPTOR) for detail in status.details), f"{code.name} without details")
    return code.name


def _judge_results(request: scoring_pb2.ScoreArchitecturesRequest, responses: Sequence[Any], *, hurries: bool) -> None:
    indices = []
    for result in (result for response in responses for result in response.results):
        indices.append(result.index)
        if result.WhichOneof("result") == "error" and result.error.code == _LATE:
            _require(hurries, f"the result [{result.index}] is late, and nobody set a deadline")
        elif result.WhichOneof("result") == "error":
            _require(result.error.code in ALLOWED_RESULTS, f"the result [{result.index}] is {result.error}")
            _require(bool(result.error.details), f"the result [{result.index}] has no details: {result.error}")
        else:
            _judge_evaluation(request, result.evaluation)
    count = len(request.architectures)
    _require(sorted(indices) == list(range(count)), f"{count} architectures, and results {sorted(indices)}")


def _judge_evaluation(request: Any, evaluation: scoring_pb2.Evaluation) -> None:
    found, asked = [score.proxy for score in evaluation.scores], list(request.proxies)
    _require(found == asked, f"scores of {found}, and {asked} were asked for")
    for score in evaluation.scores:
        _require(score.outcome != 0, f"a score without outcome: {score}")
        _require(score.HasField("value") == (score.outcome == scoring_pb2.OUTCOME_OK), f"a score that is none: {score}")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ViolationError(problem)
