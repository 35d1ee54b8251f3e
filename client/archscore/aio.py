"""The client for asyncio: the same calls as `archscore.client`, awaited."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, cast

import grpc
import grpc.aio

from archscore import _calls, _closing, _status
from archscore._base import DEFAULT_CONNECT_TIMEOUT, DEFAULT_TIMEOUT, BaseClient
from archscore._calls import LOOKUP_TIMEOUT, Call, Steps, T
from archscore._many import DEFAULT_CHUNK_SIZE, DEFAULT_MAX_IN_FLIGHT, Plan
from archscore._requests import Architecture, Config, Priority
from archscore._results import Evaluation, Result
from archscore._tasks import Tasks
from archscore.v1 import scoring_pb2, scoring_pb2_grpc

if TYPE_CHECKING:
    Metadata: TypeAlias = tuple[tuple[str, str], ...]
    ScoreStream: TypeAlias = grpc.aio.UnaryStreamCall[
        scoring_pb2.ScoreArchitecturesRequest, scoring_pb2.ScoreArchitecturesResponse
    ]
    ScoreMethod: TypeAlias = grpc.aio.UnaryStreamMultiCallable[
        scoring_pb2.ScoreArchitecturesRequest, scoring_pb2.ScoreArchitecturesResponse
    ]


class AsyncClient(BaseClient):
    """Asks an archscore server for scores, from the running event loop.

    Every method means what it means in `archscore.Client`. Use it as an asynchronous context manager, or close it.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
        client_id: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
    ) -> None:
        """Does not connect yet, nor need an event loop. Arguments and errors as for `archscore.Client`."""
        super().__init__(
            target,
            timeout=timeout,
            connect_timeout=connect_timeout,
            client_id=client_id,
            credentials=credentials,
            token=token,
        )
        self._sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
        self._streams: weakref.WeakSet[ScoreStream] = weakref.WeakSet()

    @functools.cached_property
    def _channel(self) -> grpc.aio.Channel:
        options = self._channel_options()
        if self._security.credentials is None:
            return grpc.aio.insecure_channel(self.target, options)
        return grpc.aio.secure_channel(self.target, self._security.credentials, options)

    @functools.cached_property
    def _stub(self) -> scoring_pb2_grpc.ScoringServiceAsyncStub:
        # The stubs' types tell the two stacks apart; the class is the same.
        return cast("scoring_pb2_grpc.ScoringServiceAsyncStub", scoring_pb2_grpc.ScoringServiceStub(self._channel))

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the client."""
        await self.close()

    async def close(self) -> None:
        """Closes the channel; calls in flight fail, as later ones do, with a UsageError."""
        # Not every gRPC's channel finds the streams itself.
        for stream in list(self._streams):
            stream.cancel()
        await self._channel.close()

    async def score(
        self,
        architecture: Architecture,
        proxies: str | Iterable[str],
        *,
        space: str | None = None,
        config: Config | None = None,
        priority: Priority | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 -- it travels to the server as the deadline
    ) -> Evaluation:
        """Scores one architecture. Arguments and errors as for `archscore.Client.score`."""
        request = self._score_request(architecture, proxies, space, config, priority)
        return await self._perform(_calls.score(request, self._retrier(timeout)))

    def score_many(
        self,
        architectures: Iterable[Architecture],
        proxies: str | Iterable[str],
        *,
        space: str | None = None,
        config: Config | None = None,
        priority: Priority | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        ordered: bool = True,
        timeout: float | None = None,
    ) -> AsyncGenerator[Result, None]:
        """Scores architectures, as many as there are. Arguments and errors as for `archscore.Client.score_many`.

        The iterable is an ordinary one and consumed in the event loop, so it should not block. Leaving the iteration
        early cancels what is in flight once the generator is closed (`contextlib.aclosing`) or forgotten.
        """
        plan = self._plan(
            architectures,
            proxies,
            space=space,
            config=config,
            priority=priority,
            chunk_size=chunk_size,
            max_in_flight=max_in_flight,
            ordered=ordered,
            timeout=timeout,
        )
        return self._carry_out(plan)

    async def describe(
        self,
        architecture: Architecture,
        *,
        space: str | None = None,
        config: Config | None = None,
        timeout: float = LOOKUP_TIMEOUT,  # noqa: ASYNC109
    ) -> scoring_pb2.DescribeArchitectureResponse:
        """Validates an encoding and says what its network costs. As `archscore.Client.describe`."""
        return await self._perform(_calls.describe(architecture, space, config, self._retrier(timeout)))

    async def proxies(self, *, timeout: float = LOOKUP_TIMEOUT) -> list[scoring_pb2.Proxy]:  # noqa: ASYNC109
        """The proxies that the server can compute, by name."""
        return await self._perform(_calls.proxies(self._retrier(timeout)))

    async def spaces(self, *, timeout: float = LOOKUP_TIMEOUT) -> list[scoring_pb2.SearchSpace]:  # noqa: ASYNC109
        """The search spaces whose encodings the server accepts, by name."""
        return await self._perform(_calls.spaces(self._retrier(timeout)))

    async def server_info(self, *, timeout: float = LOOKUP_TIMEOUT) -> scoring_pb2.GetServerInfoResponse:  # noqa: ASYNC109
        """What runs at the server: versions, devices, datasets at hand, limits."""
        return await self._perform(_calls.server_info(self._retrier(timeout)))

    async def _perform(self, steps: Steps[T]) -> T:
        """Performs the steps of a unary call."""
        try:
            step = next(steps)
            while True:
                if not isinstance(step, Call):
                    await self._sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    with _closing.asynchronous():
                        response = await getattr(self._stub, step.method)(
                            step.request, timeout=step.timeout, metadata=self._metadata
                        )
                except grpc.RpcError as error:
                    step = steps.throw(_status.from_rpc(error, self.target))
                else:
                    step = steps.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _start_stream(
        self, request: scoring_pb2.ScoreArchitecturesRequest, *, timeout: float, metadata: Metadata
    ) -> ScoreStream:
        """Calls ScoreArchitectures, in a way that `close` can end."""
        stream = self._stub.ScoreArchitectures(request, timeout=timeout, metadata=metadata)
        self._streams.add(stream)
        return stream

    async def _carry_out(self, plan: Plan) -> AsyncGenerator[Result, None]:
        """Sends the chunks of a plan and hands out the results."""
        tasks = Tasks(cast("ScoreMethod", self._start_stream), self._metadata, self.target, self._sleep)
        try:
            while not plan.done:
                chunk = plan.next_chunk()
                if chunk is not None:
                    tasks.start(chunk)
                # What is there goes out before more is asked; with nothing more to ask, wait for it.
                for answered, results in await tasks.take(wait=chunk is None and not plan.done):
                    for result in plan.hand_out(answered, results):
                        yield result
            await tasks.finish()
        finally:
            await tasks.close()
