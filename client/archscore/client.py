"""The client for ordinary code: blocking calls."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Self

import grpc

from archscore import _calls, _closing, _status
from archscore._base import DEFAULT_CONNECT_TIMEOUT, DEFAULT_TIMEOUT, BaseClient
from archscore._calls import LOOKUP_TIMEOUT, Call, Steps, T
from archscore._many import DEFAULT_CHUNK_SIZE, DEFAULT_MAX_IN_FLIGHT, Plan
from archscore._readers import Readers
from archscore._reconnecting import reconnecting
from archscore._requests import Architecture, Config, Priority
from archscore._results import Evaluation, Result
from archscore.v1 import scoring_pb2, scoring_pb2_grpc


class Client(BaseClient):
    """Asks an archscore server for scores.

    May be shared by threads. Every call has a deadline, and is tried again within it while the server is unavailable or
    full; what goes wrong for good is an `archscore.ArchscoreError`. Use it as a context manager, or close it.
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
        """Does not connect yet.

        Args:
            target: HOST:PORT of the server, or another gRPC target. None takes $ARCHSCORE_SERVER, else localhost:50051.
            timeout: seconds that a scoring request may take, new attempts included: one architecture of `score`, one
                chunk of `score_many`. The default suits a CPU.
            connect_timeout: seconds after which a server that never answered is given up. One that did answer is
                worth waiting for until the timeout: it may be being restarted.
            client_id: who asks, in 1 to 64 printable ASCII characters. The server lets clients take turns: those that
                share an id share a turn, whatever they run on. None takes $ARCHSCORE_CLIENT_ID; without either,
                all from one host share one.
            credentials: for a channel with TLS. None takes $ARCHSCORE_CA, a PEM file of the root certificates to trust,
                or `system` for the public ones, and for mutual TLS also $ARCHSCORE_CERT and $ARCHSCORE_KEY; without a
                CA, connects in plain text.
            token: shows the server who asks. None takes $ARCHSCORE_TOKEN. It is sent only over TLS, or in plain text to
                this machine: `localhost`, 127.0.0.0/8, [::1] or a Unix socket. HTTP proxies are then not used, and with
                `credentials` neither.

        Raises:
            UsageError: the target is not text, a timeout not positive or longer than a year, the client id or token not
                fit, a file not what it should be, or the token would travel over a network in plain text.
        """
        super().__init__(
            target,
            timeout=timeout,
            connect_timeout=connect_timeout,
            client_id=client_id,
            credentials=credentials,
            token=token,
        )
        options = self._channel_options()
        if self._security.credentials is None:
            self._channel = grpc.insecure_channel(self.target, options)
        else:
            self._channel = grpc.secure_channel(self.target, self._security.credentials, options)
        self._stub = scoring_pb2_grpc.ScoringServiceStub(self._channel)
        self._sleep: Callable[[float], object] = time.sleep
        self._wait: Callable[[threading.Event, float], object] = threading.Event.wait

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the client."""
        self.close()

    def close(self) -> None:
        """Closes the channel; calls in flight fail, as later ones do, with a UsageError."""
        self._channel.close()

    def score(
        self,
        architecture: Architecture,
        proxies: str | Iterable[str],
        *,
        space: str | None = None,
        config: Config | None = None,
        priority: Priority | None = None,
        timeout: float | None = None,
    ) -> Evaluation:
        """Scores one architecture.

        Args:
            architecture: an encoding, or an architecture of `archscore.spaces`.
            proxies: names of proxies.
            space: the search space of an encoding, "nasbench201" by default. An architecture value knows its own.
            config: how to evaluate: an `EvaluationConfig` message, or a mapping in its proto3 JSON form, such as
                `{"batch_size": 16, "nasbench201": {"channels": 8}}`.
            priority: "bulk", "default" or "interactive".
            timeout: seconds, instead of the client's.

        Raises:
            ArchitectureError: this architecture cannot be scored.
            ArchscoreError: any other failure; see `archscore.errors`.
        """
        request = self._score_request(architecture, proxies, space, config, priority)
        return self._perform(_calls.score(request, self._retrier(timeout)))

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
    ) -> Generator[Result, None, None]:
        """Scores architectures, as many as there are; results come as they are ready.

        The iterable may be endless: it is consumed in the caller's thread, at most `chunk_size * max_in_flight`
        architectures ahead of the results. An architecture that cannot be scored, or is not in time, has an error in
        its result; only faults of the request, and a server that stays away, raise. Streams that break are resumed
        where they broke, and a server that was there before is waited for until the timeout, counted from when it went.
        While its queue is full, less is sent, and waiting for it does not count as time.
        Leaving the iteration early, or closing the generator, cancels what is in flight.

        Args:
            architectures: encodings, or architectures of `archscore.spaces`.
            proxies: names of proxies.
            space: the search space of encodings, "nasbench201" by default. Architecture values know their own.
            config: how to evaluate, as for `score`.
            priority: "bulk", "default" or "interactive".
            chunk_size: architectures in a request; fewer where they are very long.
            max_in_flight: requests on their way at a time.
            ordered: whether results come in the order of the iterable, or as they are ready.
            timeout: seconds for each chunk, instead of the client's.

        Raises:
            ArchscoreError: the request as a whole failed; see `archscore.errors`.
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

    def describe(
        self,
        architecture: Architecture,
        *,
        space: str | None = None,
        config: Config | None = None,
        timeout: float = LOOKUP_TIMEOUT,
    ) -> scoring_pb2.DescribeArchitectureResponse:
        """Validates an encoding and says what its network consists of and costs.

        Raises:
            ArchitectureError: the encoding is malformed.
            ArchscoreError: any other failure; see `archscore.errors`.
        """
        return self._perform(_calls.describe(architecture, space, config, self._retrier(timeout)))

    def proxies(self, *, timeout: float = LOOKUP_TIMEOUT) -> list[scoring_pb2.Proxy]:
        """The proxies that the server can compute, by name."""
        return self._perform(_calls.proxies(self._retrier(timeout)))

    def spaces(self, *, timeout: float = LOOKUP_TIMEOUT) -> list[scoring_pb2.SearchSpace]:
        """The search spaces whose encodings the server accepts, by name."""
        return self._perform(_calls.spaces(self._retrier(timeout)))

    def server_info(self, *, timeout: float = LOOKUP_TIMEOUT) -> scoring_pb2.GetServerInfoResponse:
        """What runs at the server: versions, devices, datasets at hand, limits."""
        return self._perform(_calls.server_info(self._retrier(timeout)))

    def _perform(self, steps: Steps[T]) -> T:
        """Performs the steps of a unary call."""
        try:
            step = next(steps)
            while True:
                if not isinstance(step, Call):
                    with self._pausing():
                        self._sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    with _closing.blocking():
                        response = getattr(self._stub, step.method)(
                            step.request, timeout=step.timeout, metadata=self._metadata
                        )
                except grpc.RpcError as error:
                    step = steps.throw(_status.from_rpc(error, self.target))
                else:
                    step = steps.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _pause(self, stopped: threading.Event, seconds: float) -> None:
        """Pauses a reader, until it is stopped at the latest."""
        with self._pausing():
            self._wait(stopped, seconds)

    def _pausing(self) -> contextlib.AbstractContextManager[None]:
        return reconnecting(self._channel) if self._contact.lost else contextlib.nullcontext()

    def _carry_out(self, plan: Plan) -> Generator[Result, None, None]:
        """Sends the chunks of a plan and hands out the results."""
        readers = Readers(self._stub.ScoreArchitectures, self._metadata, self.target, self._pause)
        try:
            while not plan.done:
                chunk = plan.next_chunk()
                if chunk is not None:
                    readers.start(chunk)
                # What is there goes out before more is asked; with nothing more to ask, wait for it.
                for answered, results in readers.take(wait=chunk is None and not plan.done):
                    yield from plan.hand_out(answered, results)
            readers.finish()
        finally:
            readers.close()
