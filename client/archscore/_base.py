"""What both clients are made of, but for the channel."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

import grpc

from archscore import _requests, _security
from archscore._many import Plan
from archscore._requests import Architecture, Config, Priority
from archscore._retry import Contact, Retrier
from archscore.errors import UsageError
from archscore.v1 import scoring_pb2

DEFAULT_TARGET: Final = "localhost:50051"
DEFAULT_TIMEOUT: Final = 600.0
DEFAULT_CONNECT_TIMEOUT: Final = 10.0

_CLIENT_ID_METADATA: Final = "archscore-client-id"
_LONGEST_RECONNECT_PAUSE: Final = 2.0
"""Seconds between attempts to connect: a server that is back is found again within a few of them."""
_KEEPALIVE_TIME: Final = 30.0
"""Seconds of silence, while calls are in flight, after which the server is pinged. It permits a ping every 10 s."""
_KEEPALIVE_TIMEOUT: Final = 20.0
"""Seconds after which a server that does not answer a ping has vanished: switched off, or cut off."""


class BaseClient:
    """Settings of a client, and requests made of its methods' arguments."""

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
        """Takes the settings that `archscore.Client` documents."""
        self.target = _requests.text("target", target or os.environ.get("ARCHSCORE_SERVER") or DEFAULT_TARGET)
        self._timeout = _requests.seconds("timeout", timeout)
        self._contact = Contact(_requests.seconds("connect_timeout", connect_timeout))
        if client_id is None:
            client_id = os.environ.get("ARCHSCORE_CLIENT_ID") or None
        self.client_id = None if client_id is None else _requests.client_id(client_id)
        self._security = _security.secure(self.target, credentials, token)
        identity = () if self.client_id is None else ((_CLIENT_ID_METADATA, self.client_id),)
        self._metadata = (*identity, *self._security.metadata)

    def _channel_options(self) -> list[tuple[str, Any]]:
        # Half of the time, so that an address that swallows packets fails before a deadline hides why; and never so
        # long that packets swallowed during an outage delay the end of it.
        handshake = min(self._contact.connect_timeout, self._timeout, DEFAULT_CONNECT_TIMEOUT) / 2
        return [
            # A large chunk that is answered from the store comes in one message.
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", int(1000 * _LONGEST_RECONNECT_PAUSE)),
            # In spite of its name this is how long a connection may take to be made.
            ("grpc.min_reconnect_backoff_ms", max(1, int(1000 * handshake))),
            ("grpc.keepalive_time_ms", int(1000 * _KEEPALIVE_TIME)),
            ("grpc.keepalive_timeout_ms", int(1000 * _KEEPALIVE_TIMEOUT)),
            # While gRPC's own measuring ping is unanswered it sends no other, and waits a minute for that one.
            ("grpc.http2.ping_timeout_ms", int(1000 * _KEEPALIVE_TIMEOUT)),
            # A stream may be silent for long while its architectures are evaluated.
            ("grpc.http2.max_pings_without_data", 0),
            *self._security.options,
        ]

    def _retrier(self, timeout: float | None) -> Retrier:
        return Retrier(self._contact, self._timeout if timeout is None else _requests.seconds("timeout", timeout))

    def _score_request(
        self,
        architecture: Architecture,
        proxies: str | Iterable[str],
        space: str | None,
        config: Config | None,
        priority: Priority | None,
    ) -> scoring_pb2.ScoreArchitectureRequest:
        return scoring_pb2.ScoreArchitectureRequest(
            architecture=_requests.architecture_message(architecture, space),
            proxies=_requests.proxy_names(proxies),
            config=_requests.config_message(config),
            priority=_requests.priority_value(priority),
        )

    def _plan(
        self,
        architectures: Iterable[Architecture],
        proxies: str | Iterable[str],
        *,
        space: str | None,
        config: Config | None,
        priority: Priority | None,
        chunk_size: int,
        max_in_flight: int,
        ordered: bool,
        timeout: float | None,
    ) -> Plan:
        if isinstance(architectures, str):
            raise UsageError("architectures is a string: score_many takes an iterable of architectures")
        if chunk_size < 1 or max_in_flight < 1:
            raise UsageError("chunk_size and max_in_flight must be at least 1")
        template = scoring_pb2.ScoreArchitecturesRequest(
            proxies=_requests.proxy_names(proxies),
            config=_requests.config_message(config),
            priority=_requests.priority_value(priority),
        )
        return Plan(
            architectures,
            space=space,
            template=template,
            chunk_size=chunk_size,
            max_in_flight=max_in_flight,
            ordered=ordered,
            contact=self._contact,
            timeout=self._timeout if timeout is None else _requests.seconds("timeout", timeout),
        )
