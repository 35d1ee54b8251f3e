"""A scoring server on strings: the real contract over a real port, invented scores, and faults on command.

For tests of anything that talks to a server. Encodings that start with "bad" are malformed, those that start with
"none" are disconnected; all others have the scores that `score_of` says.
"""

# ruff: noqa: N802 -- RPCs are named as in the contract

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from archscore.v1 import scoring_pb2, scoring_pb2_grpc

PROXIES = (
    "flops",
    "layerwise_naswot_train",
    "naswot",
    "parameters",
    "ssnr",
    "ssnr_grad",
    "tcet",
    "tcet_grad",
    "tcet_log",
)
PAGE_SIZE = 2


def score_of(encoding: str, proxy: str) -> float:
    """The score that the puppet gives."""
    return zlib.crc32(f"{encoding} {proxy}".encode()) / 1000


def status(
    code: grpc.StatusCode,
    message: str = "",
    *,
    reason: str = "",
    retry_after: float | None = None,
    violations: Sequence[tuple[str, str]] = (),
) -> Status:
    """A google.rpc.Status with the details that the contract promises."""
    details: list[Message] = []
    if reason:
        details.append(ErrorInfo(reason=reason, domain="archscore"))
    if retry_after is not None:
        details.append(RetryInfo(retry_delay=Duration(nanos=round(retry_after % 1 * 1e9), seconds=int(retry_after))))
    if violations:
        fields = [BadRequest.FieldViolation(field=name, description=text) for name, text in violations]
        details.append(BadRequest(field_violations=fields))
    packed = Status(code=code.value[0], message=message or code.name)
    for detail in details:
        packed.details.add().Pack(detail)
    return packed


QUEUE_FULL = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", reason="QUEUE_FULL", retry_after=30)
UNAVAILABLE = status(grpc.StatusCode.UNAVAILABLE, "gone")
STARTING = status(grpc.StatusCode.UNAVAILABLE, "workers are warming up", reason="STARTING", retry_after=5)


def malformed(field: str) -> Status:
    """The status for an encoding that is none."""
    fault = "at position 3: expected '|'"
    return status(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {fault}", violations=[(field, fault)])


MALFORMED = malformed("architecture.encoding")


@dataclass
class Fault:
    """How one RPC fails.

    Attributes:
        status: what it fails with. None ends a stream well, but early.
        after: how many architectures a stream answers before.
        hangs: whether a stream says nothing more instead, until it is cancelled or its deadline passes.
        pushback: what the trailer grpc-retry-pushback-ms says; None sends none.
    """

    status: Status | None
    after: int = 0
    hangs: bool = False
    pushback: str | None = None

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        """Ends an RPC with the status."""
        sent = rpc_status.to_status(self.status)
        if self.pushback is not None:
            trailer = ("grpc-retry-pushback-ms", self.pushback)
            sent = sent._replace(trailing_metadata=(*sent.trailing_metadata, trailer))
        context.abort_with_status(sent)


@dataclass
class Puppet(scoring_pb2_grpc.ScoringServiceServicer):
    """The service.

    Attributes:
        script: faults of the next RPCs, one each; None lets one pass.
        item_script: per encoding, what its next answers are instead of scores.
        requests: what was received, in order.
        streams_answered: how many streams are answered; those that come after them hang. None answers all.
        reverse: whether streams answer the last architecture first.
        gate: while it is not set, streams do not answer.
        timeouts: seconds that each RPC had left on arrival.
        client_ids: what each RPC called its client; None if it did not.
        authorizations: values of the metadata `authorization` of each RPC.
        abandoned: set once the client has left a stream that hung.
    """

    script: deque[Fault | None] = field(default_factory=deque)
    item_script: dict[str, list[Status]] = field(default_factory=dict)
    requests: list[Message] = field(default_factory=list)
    streams_answered: int | None = None
    reverse: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    timeouts: list[float] = field(default_factory=list)
    client_ids: list[str | None] = field(default_factory=list)
    authorizations: list[list[str | bytes]] = field(default_factory=list)
    abandoned: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        self.gate.set()

    def chunks(self) -> list[list[str]]:
        """The encodings of each streaming request received."""
        return [
            [architecture.encoding for architecture in request.architectures]
            for request in self.requests
            if isinstance(request, scoring_pb2.ScoreArchitecturesRequest)
        ]

    def ScoreArchitecture(self, request, context):
        self._arrived(request, context)
        result = self._result(0, request.architecture.encoding, request.proxies, "architecture")
        if result.HasField("error"):
            context.abort_with_status(rpc_status.to_status(result.error))
        return scoring_pb2.ScoreArchitectureResponse(evaluation=result.evaluation)

    def ScoreArchitectures(self, request, context):
        fault = self._arrived(request, context, streaming=True)
        if self.streams_answered is not None and len(self.chunks()) > self.streams_answered:
            fault = Fault(None, hangs=True)
        results = [
            self._result(index, architecture.encoding, request.proxies, f"architectures[{index}]")
            for index, architecture in enumerate(request.architectures)
        ]
        if self.reverse:
            results.reverse()
        if fault is not None:
            results = results[: fault.after]
        while not self.gate.wait(0.01) and context.is_active():
            pass
        try:
            for start in range(0, len(results), 3):
                yield scoring_pb2.ScoreArchitecturesResponse(results=results[start : start + 3])
            while fault is not None and fault.hangs and context.is_active():
                time.sleep(0.01)
        finally:
            if fault is not None and fault.hangs:
                self.abandoned.set()
        if fault is not None and fault.status is not None:
            fault.abort(context)

    def DescribeArchitecture(self, request, context):
        self._arrived(request, context)
        encoding = request.architecture.encoding
        if encoding.startswith("bad"):
            context.abort_with_status(rpc_status.to_status(MALFORMED))
        layer = scoring_pb2.Layer(name="stem", kind="conv", in_channels=3, out_channels=16, kernel=3)
        return scoring_pb2.DescribeArchitectureResponse(
            canonical_encoding=encoding.strip(),
            connected=True,
            parameters=1234567,
            layers=[layer],
            config=request.config,
        )

    def ListProxies(self, request, context):
        self._arrived(request, context)
        names, token = _page(PROXIES, request.page_token)
        proxies = [
            scoring_pb2.Proxy(
                name=name, version=1, direction="DIRECTION_HIGHER_IS_BETTER", description=f"What {name} is."
            )
            for name in names
        ]
        return scoring_pb2.ListProxiesResponse(proxies=proxies, next_page_token=token)

    def ListSearchSpaces(self, request, context):
        self._arrived(request, context)
        names, token = _page(("nasbench201", "other", "zennas"), request.page_token)
        spaces = [scoring_pb2.SearchSpace(name=name, description="A space.", example="|x|") for name in names]
        return scoring_pb2.ListSearchSpacesResponse(search_spaces=spaces, next_page_token=token)

    def GetServerInfo(self, request, context):
        self._arrived(request, context)
        return scoring_pb2.GetServerInfoResponse(
            archscore_version="1.2.3",
            torch_version="2.9.0",
            devices=[scoring_pb2.Device(kind="cpu", name="puppet", workers=2, threads_per_worker=1)],
            datasets=[scoring_pb2.Dataset(name="gaussian")],
            limits=scoring_pb2.Limits(max_architectures_per_request=1000),
        )

    def _arrived(self, request, context, *, streaming=False) -> Fault | None:
        """Notes a request; unary ones fail here if they are to fail."""
        self.requests.append(request)
        self.timeouts.append(context.time_remaining())
        metadata = context.invocation_metadata()
        self.client_ids.append(dict(metadata).get("archscore-client-id"))
        self.authorizations.append([value for key, value in metadata if key == "authorization"])
        fault = self.script.popleft() if self.script else None
        if fault is not None and not streaming:
            fault.abort(context)
        return fault

    def _result(self, index, encoding, proxies, path) -> scoring_pb2.ArchitectureResult:
        if self.item_script.get(encoding):
            return scoring_pb2.ArchitectureResult(index=index, error=self.item_script[encoding].pop(0))
        if encoding.startswith("bad"):
            return scoring_pb2.ArchitectureResult(index=index, error=malformed(f"{path}.encoding"))
        scores = []
        for proxy in proxies:
            if encoding.startswith("none"):
                scores.append(scoring_pb2.ProxyScore(proxy=proxy, outcome="OUTCOME_DEGENERATE"))
            else:
                value = score_of(encoding, proxy)
                scores.append(scoring_pb2.ProxyScore(proxy=proxy, outcome="OUTCOME_OK", value=value))
        fingerprint = scoring_pb2.Fingerprint(device_kind="cpu", proxy_versions=dict.fromkeys(proxies, 1))
        evaluation = scoring_pb2.Evaluation(scores=scores, fingerprint=fingerprint)
        return scoring_pb2.ArchitectureResult(index=index, evaluation=evaluation)


def _page(names: Sequence[str], token: str) -> tuple[Sequence[str], str]:
    start = int(token or 0)
    end = start + PAGE_SIZE
    return names[start:end], str(end) if end < len(names) else ""


def start(
    puppet: Puppet,
    port: int = 0,
    *,
    options: Sequence[tuple[str, int]] = (),
    credentials: grpc.ServerCredentials | None = None,
    address: str | None = None,
) -> tuple[grpc.Server, int]:
    """Starts a server for the puppet, at a port or another address; returns it and its port."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0), *options])
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(puppet, server)
    address = address or f"127.0.0.1:{port}"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    return server, port


@contextlib.contextmanager
def serve(puppet: Puppet, options: Sequence[tuple[str, int]] = ()) -> Iterator[str]:
    """Runs a server for the puppet; gives its address."""
    server, port = start(puppet, options=options)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        puppet.gate.set()
        server.stop(0).wait()


@contextlib.contextmanager
def process(port: int = 0, *, hangs_after: int | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs a server in a process of its own, which can be killed; gives the process and its address.

    Args:
        port: where it listens; 0 takes a free one.
        hangs_after: how many architectures its streams answer before they hang; None lets them finish.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(port), *([] if hangs_after is None else [str(hangs_after)])]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child, f"127.0.0.1:{child.stdout.readline().strip()}"
        finally:
            child.kill()


def main(port: int, hangs_after: int | None = None) -> None:
    """Serves until killed; prints the port."""
    puppet = Puppet()
    if hangs_after is not None:
        puppet.script.extend([Fault(None, after=hangs_after, hangs=True)] * 1000)
    server, port = start(puppet, port)
    print(port, flush=True)  # noqa: T201 -- whoever started it waits for this
    server.wait_for_termination()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
