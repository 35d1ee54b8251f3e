"""A load with a bit of everything that a server counts, so that there is something to see."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from archscore import Client
from archscore._requests import Priority
from archscore.spaces import nasbench201, zennas
from archscore.v1 import scoring_pb2, scoring_pb2_grpc

#: How a server is to run for this: with a queue that is soon full, and so that a lost worker is missed.
OPTIONS: Final = [
    *("--device", "cpu", "--workers", "2", "--threads", "1"),
    *("--max-queued", "64", "--limit-architectures", "64", "--lame-duck", "0"),
]

#: A network that takes a few milliseconds, and one that takes some hundred.
CHEAP: Final = {"batchSize": 8, "nasbench201": {"channels": 4, "cellsPerStage": 1}}
DEAR: Final = {"batchSize": 64}

_DISCONNECTED: Final = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
_TIMEOUT: Final = 120.0
#: Seconds after which dear work has begun.
_BEGUN: Final = 0.3


class Load:
    """Asks a server for all kinds of things. Each act ends when the server has answered.

    Architectures are drawn anew for each act, so that they are not in the store.
    """

    def __init__(self, address: str, kill: Callable[[], None], tokens: Sequence[str] = (), seed: int = 0) -> None:
        """Connects.

        Args:
            address: HOST:PORT of the server.
            kill: kills one of its workers.
            tokens: of the server, if it wants any; clients take turns with them.
            seed: which architectures are drawn.
        """
        self._address = address
        self._kill = kill
        self._tokens = itertools.cycle(tokens or [None])
        self._rng = random.Random(seed)
        self._channel = grpc.insecure_channel(address)
        self._stub = scoring_pb2_grpc.ScoringServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {tokens[0]}"),) if tokens else ()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()

    def everything(self) -> None:
        """Each act once."""
        self.look_up()
        self.score(24)
        self.repeat(12)
        self.ask_wrongly()
        self.merge()
        self.expire()
        self.cancel()
        self.overflow()
        self.lose_a_worker()
        self.knock()
        # Prometheus sees no growth in what it sees for the first time.
        self.score(8)

    def look_up(self) -> None:
        """All that needs no device."""
        with Client(self._address, token=next(self._tokens)) as client:
            client.server_info()
            client.proxies()
            client.spaces()
            client.describe("index:6111")
        health: Any = health_pb2_grpc.HealthStub(self._channel)
        health.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)

    def score(
        self,
        count: int,
        proxies: Sequence[str] = ("tcet", "ssnr", "naswot"),
        priority: Priority = "default",
        config: dict[str, Any] = CHEAP,
    ) -> None:
        """New cells and genomes, one by one and many."""
        with Client(self._address, token=next(self._tokens), client_id=f"{priority}-search") as client:
            list(client.score_many(self._cells(count), proxies, config=config, priority=priority, max_in_flight=2))
            client.score(self._cells(1)[0], proxies, config=config, priority="interactive")
            genome = zennas.sample(self._rng)
            client.score(genome, ["parameters", "flops"], priority="bulk")

    def repeat(self, count: int) -> None:
        """The same cells twice: the second time they are in the store."""
        cells = self._cells(count)
        with Client(self._address, token=next(self._tokens)) as client:
            for _ in range(2):
                list(client.score_many(cells, ["tcet", "snip"], config=CHEAP))

    def ask_wrongly(self) -> None:
        """Faults of requests and of architectures; a method that there is not."""
        encodings = ["garbage", "", _DISCONNECTED, "x" * 20_000, "index:6111"]
        list(self._stub.ScoreArchitectures(self._many(encodings, CHEAP), timeout=_TIMEOUT, metadata=self._metadata))
        for request in (self._one("garbage"), self._one("index:6111", ["no_such_proxy"]), self._one("x" * 20_000)):
            _refused(self._stub.ScoreArchitecture.future(request, timeout=_TIMEOUT, metadata=self._metadata))
        nothing: Any = self._channel.unary_unary("/archscore.v1.ScoringService/NoSuchMethod")
        _refused(nothing.future(b"", timeout=_TIMEOUT, metadata=self._metadata))

    def merge(self) -> None:
        """Equal requests at the same time."""
        request = self._many(_encodings(self._cells(3)), DEAR)
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(self._stream, [request] * 3))

    def expire(self) -> None:
        """Work whose deadline passes while what is more urgent goes first, and some that never had a chance."""
        urgent = self._many(_encodings(self._cells(16)), DEAR, priority=scoring_pb2.PRIORITY_INTERACTIVE)
        late = self._many(_encodings(self._cells(4)), DEAR, priority=scoring_pb2.PRIORITY_BULK)
        with ThreadPoolExecutor(2) as threads:
            running = threads.submit(self._stream, urgent)
            time.sleep(_BEGUN)
            for timeout in (1.5, 0.01):
                self._stream(late, timeout)
            running.result()

    def cancel(self) -> None:
        """A client that leaves with its work in the queue."""
        request = self._many(_encodings(self._cells(24)), DEAR)
        call = self._stub.ScoreArchitectures(request, timeout=_TIMEOUT, metadata=self._metadata)
        time.sleep(_BEGUN)
        call.cancel()

    def overflow(self) -> None:
        """More than the queue takes."""
        requests = [self._many(_encodings(self._cells(60)), {**DEAR, "batchSize": 8}) for _ in range(4)]
        with ThreadPoolExecutor(len(requests)) as threads:
            list(threads.map(self._stream, requests))

    def lose_a_worker(self) -> None:
        """A worker dies over its work, which is run again."""
        request = self._many(_encodings(self._cells(12)), DEAR)
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(self._stream, request)
            time.sleep(_BEGUN)
            self._kill()
            answer.result()

    def knock(self) -> None:
        """Callers without a token, and with a wrong one; where the server wants none they are let in."""
        request = scoring_pb2.ListProxiesRequest()
        for metadata in ((), (("authorization", "Bearer archscore.nobody.secret"),)):
            _refused(self._stub.ListProxies.future(request, timeout=_TIMEOUT, metadata=metadata))

    def _stream(self, request: scoring_pb2.ScoreArchitecturesRequest, timeout: float = _TIMEOUT) -> None:
        """Reads a stream to its end, be that an error that the load is about."""
        try:
            list(self._stub.ScoreArchitectures(request, timeout=timeout, metadata=self._metadata))
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise

    def _cells(self, count: int) -> list[nasbench201.Cell]:
        return [nasbench201.sample(self._rng) for _ in range(count)]

    def _one(self, encoding: str, proxies: Sequence[str] = ("tcet",)) -> scoring_pb2.ScoreArchitectureRequest:
        architecture = scoring_pb2.Architecture(space="nasbench201", encoding=encoding)
        return scoring_pb2.ScoreArchitectureRequest(architecture=architecture, proxies=proxies)

    def _many(
        self, encodings: Sequence[str], config: dict[str, Any], **fields: Any
    ) -> scoring_pb2.ScoreArchitecturesRequest:
        architectures = [scoring_pb2.Architecture(space="nasbench201", encoding=encoding) for encoding in encodings]
        message = json_format.ParseDict(config, scoring_pb2.EvaluationConfig())
        return scoring_pb2.ScoreArchitecturesRequest(
            architectures=architectures, proxies=["tcet", "ssnr"], config=message, **fields
        )


def _encodings(cells: Sequence[nasbench201.Cell]) -> list[str]:
    return [cell.format() for cell in cells]


def _refused(call: Any) -> None:
    """Waits for a call that the server may well refuse."""
    call.exception()
