"""The unary calls, as steps that either stack performs.

A call is a generator that yields what is to be done (`Call`, `Sleep`) and is sent the response, or thrown the error, of
a `Call`; what it returns is the result. So requests, retries, pages and results are written once, and the two
clients only perform steps.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.message import Message

from archscore._requests import Architecture, Config, architecture_message, config_message
from archscore._results import Evaluation
from archscore._retry import Retrier
from archscore.errors import ArchscoreError
from archscore.v1 import scoring_pb2

LOOKUP_TIMEOUT: Final = 30.0
"""Seconds for calls that touch no device."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to send.

    Attributes:
        method: name of the unary RPC.
        request: its request.
        timeout: seconds that it may take.
    """

    method: str
    request: Message
    timeout: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause, in seconds."""

    seconds: float


T = TypeVar("T")
Steps: TypeAlias = Generator[Call | Sleep, Any, T]


def score(request: scoring_pb2.ScoreArchitectureRequest, retrier: Retrier) -> Steps[Evaluation]:
    """Scores one architecture."""
    response: scoring_pb2.ScoreArchitectureResponse = yield from _call("ScoreArchitecture", request, retrier)
    return Evaluation(response.evaluation)


def describe(
    architecture: Architecture, space: str | None, config: Config | None, retrier: Retrier
) -> Steps[scoring_pb2.DescribeArchitectureResponse]:
    """Describes one architecture."""
    request = scoring_pb2.DescribeArchitectureRequest(
        architecture=architecture_message(architecture, space), config=config_message(config)
    )
    response: scoring_pb2.DescribeArchitectureResponse = yield from _call("DescribeArchitecture", request, retrier)
    return response


def proxies(retrier: Retrier) -> Steps[list[scoring_pb2.Proxy]]:
    """Lists all proxies."""
    found: list[scoring_pb2.Proxy] = []
    request = scoring_pb2.ListProxiesRequest()
    while True:
        response: scoring_pb2.ListProxiesResponse = yield from _call("ListProxies", request, retrier)
        found.extend(response.proxies)
        if not response.next_page_token:
            return found
        request = scoring_pb2.ListProxiesRequest(page_token=response.next_page_token)


def spaces(retrier: Retrier) -> Steps[list[scoring_pb2.SearchSpace]]:
    """Lists all search spaces."""
    found: list[scoring_pb2.SearchSpace] = []
    request = scoring_pb2.ListSearchSpacesRequest()
    while True:
        response: scoring_pb2.ListSearchSpacesResponse = yield from _call("ListSearchSpaces", request, retrier)
        found.extend(response.search_spaces)
        if not response.next_page_token:
            return found
        request = scoring_pb2.ListSearchSpacesRequest(page_token=response.next_page_token)


def server_info(retrier: Retrier) -> Steps[scoring_pb2.GetServerInfoResponse]:
    """Says what runs at the server."""
    request = scoring_pb2.GetServerInfoRequest()
    response: scoring_pb2.GetServerInfoResponse = yield from _call("GetServerInfo", request, retrier)
    return response


def _call(method: str, request: Message, retrier: Retrier) -> Steps[Any]:
    """Calls until there is a response, or no point in trying."""
    while True:
        try:
            response = yield Call(method, request, retrier.remaining())
        except ArchscoreError as error:
            pause = retrier.pause(error)
        else:
            retrier.progressed()
            return response
        yield Sleep(pause)
