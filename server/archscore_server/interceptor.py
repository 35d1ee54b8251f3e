"""What happens around every RPC, of any service: who calls, decoding, errors, counting, a request id for the log.

gRPC answers bytes that it cannot decode with INTERNAL, and an exception with UNKNOWN and its text. Here requests come
undecoded from gRPC, so that the first is INVALID_ARGUMENT, and the second is INTERNAL without the text. gRPC waits for
ever for a client that does not read; here it does not.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

from archscore_server import clients, deadlines, errors, logs
from archscore_server.access.authentication import Authentication
from archscore_server.access.refusals import Refusals
from archscore_server.errors import RequestError
from archscore_server.metrics import Metrics
from archscore_server.slices import Slices

_logger = logging.getLogger(__name__)

#: Bytes of a first response up to which its stream's window has room for it, whether or not the client reads.
_SMALL = 32_768

Context = grpc.aio.ServicerContext[Any, Any]
Decoder = Callable[[bytes], Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Stands between gRPC and all servicers."""

    def __init__(self, metrics: Metrics, authentication: Authentication, slices: Slices, write_timeout: float) -> None:
        """Takes what it needs.

        Args:
            metrics: what RPCs are counted in.
            authentication: says who calls, and whether they may.
            slices: shares out the time of the event loop.
            write_timeout: seconds after which a client that does not read is given up.
        """
        self._metrics = metrics
        self._authentication = authentication
        self._slices = slices
        self._write_timeout = write_timeout
        self._refusals = Refusals()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Replaces the handler of an RPC by one that does what this module promises around it."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method.lstrip("/")
        try:
            token_owner = self._authentication.admit(method, handler_call_details.invocation_metadata or ())
        except RequestError as refusal:
            return self._refuse(method if handler else None, refusal)
        if handler is None:
            self._metrics.rpc_ended(None, grpc.StatusCode.UNIMPLEMENTED, 0.0)
            return None
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        decode = _decode_stream if handler.request_streaming else _decode
        writes_itself = inspect.iscoroutinefunction(behaviour)

        async def unary(received: Any, context: Context) -> Any:
            async with self._call(method, token_owner, context):
                await self._slices.turn(clients.CALLER.get().name)
                return await behaviour(decode(received, handler.request_deserializer), context)

        async def stream(received: Any, context: Context) -> None:
            async with self._call(method, token_owner, context):
                await self._slices.turn(clients.CALLER.get().name)
                request = decode(received, handler.request_deserializer)
                if writes_itself:
                    await behaviour(request, context)
                    return
                async with aclosing(behaviour(request, context)) as responses:
                    begun = False
                    async for message in responses:
                        response = message if isinstance(message, bytes) else handler.response_serializer(message)
                        if not begun and len(response) > _SMALL:
                            # Else gRPC sends them with the response, and cannot abort while that is not read.
                            await context.send_initial_metadata(())
                            begun = True
                        await self._write(response, context, abortable=begun)
                        begun = True

        make = _HANDLERS[handler.request_streaming, handler.response_streaming]
        if handler.response_streaming:
            return make(stream, response_serializer=handler.response_serializer if writes_itself else None)
        return make(unary, response_serializer=handler.response_serializer)

    def _refuse(self, method: str | None, refusal: RequestError) -> Any:
        """A handler that ends an RPC before its request is read, whatever its type."""

        async def refuse(_requests: object, context: Context) -> None:
            self._refusals.refused(context.peer(), refusal.status.message)
            answer = rpc_status.to_status(refusal.status)
            self._metrics.rpc_ended(method, answer.code, 0.0)
            await context.abort_with_status(answer)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _write(self, response: bytes, context: Context, *, abortable: bool) -> None:
        """Sends a response.

        Args:
            response: a message, serialized.
            context: of its call.
            abortable: whether the call can still be aborted when this is not read.

        Raises:
            RequestError: the client does not read.
            asyncio.CancelledError: the same, where nobody can be told.
        """
        try:
            async with asyncio.timeout(self._write_timeout):
                await context.write(response)
        except TimeoutError:
            if not abortable:
                raise asyncio.CancelledError from None
            message = f"the client has not read for {self._write_timeout:g} s, with responses waiting for it"
            info = error_details_pb2.ErrorInfo(reason="CLIENT_NOT_READING", domain=errors.DOMAIN)
            raise RequestError(errors.status(code_pb2.UNAVAILABLE, message, info)) from None

    @asynccontextmanager
    async def _call(self, method: str, token_owner: str | None, context: Context) -> AsyncIterator[None]:
        """Surrounds the run of a handler: however it ends, the client gets a proper status and the RPC is counted."""
        request_id = secrets.token_hex(8)
        caller = self._authentication.caller(token_owner, context)
        clients.CALLER.set(caller)
        logs.bind(request_id=request_id, client=caller.name)
        started = time.monotonic()

        def ended(code: grpc.StatusCode) -> None:
            seconds = time.monotonic() - started
            self._metrics.rpc_ended(method, code, seconds, request_id)
            _logger.debug("%s %s in %.3f s", method, code.name, seconds)

        try:
            yield
        except RequestError as error:
            failure, trailers = error.status, error.trailers
        except grpc.aio.BaseError:
            # gRPC's own: the handler aborted, or the peer is gone. gRPC knows how to end it.
            code: grpc.StatusCode | None = context.code()
            ended(code or grpc.StatusCode.CANCELLED)
            raise
        except asyncio.CancelledError:
            due = deadlines.is_due(context.time_remaining())
            ended(grpc.StatusCode.DEADLINE_EXCEEDED if due else grpc.StatusCode.CANCELLED)
            raise
        except Exception:
            _logger.exception("%s failed", method)
            failure, trailers = errors.internal(request_id), ()
        else:
            ended(grpc.StatusCode.OK)
            return
        # Counted before the client hears of it: whoever sees the answer sees the count.
        answer = rpc_status.to_status(failure)
        ended(answer.code)
        try:
            async with asyncio.timeout(self._write_timeout):
                await context.abort(answer.code, answer.details, (*answer.trailing_metadata, *trailers))
        except TimeoutError:
            # The client does not read this either. gRPC has it from here on, until the connection ends; what is held
            # for the request is let go now.
            raise asyncio.CancelledError from None


_HANDLERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _decode(received: bytes, decoder: Decoder) -> Any:
    try:
        return decoder(received)
    except DecodeError as error:
        raise RequestError(errors.undecodable()) from error


async def _decode_stream(received: AsyncIterator[bytes], decoder: Decoder) -> AsyncIterator[Any]:
    async for message in received:
        yield _decode(message, decoder)
