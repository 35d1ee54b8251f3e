"""What can be set about a server: one frozen object, filled by the command line or by tests."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DeviceChoice = Literal["auto", "cpu", "cuda"]

#: A connection is asked to end after this long (its RPCs may finish): clients that balance over DNS resolve again only
#: when they reconnect, so this bounds how long a new replica waits for its share.
_MAX_CONNECTION_AGE_MS = 5 * 60_000
#: A silent connection is pinged this often, so that peers that vanished are noticed and their work is dropped.
_KEEPALIVE_TIME_MS = 60_000
#: How long the answer to a ping may take.
_KEEPALIVE_TIMEOUT_MS = 20_000
#: How long a new connection may take to speak HTTP/2. Until then it costs a descriptor and nothing else.
_HANDSHAKE_TIMEOUT_MS = 10_000
#: Connections at a time, at most; fewer where the process may not open twice as many files: workers and the store need
#: some. Those above are closed at once.
_MAX_CONNECTIONS = 4_096
#: RPCs of one connection at a time, at most; a client keeps back those above until others end. Requests that are taken
#: back at once pile up in front of the service, and from 1,000 on gRPC cancels some, whosever they are: a bound on each
#: connection keeps them with who sends them.
_MAX_STREAMS = 100
#: Bytes of the metadata of an RPC, at most; above that it ends with RESOURCE_EXHAUSTED. Ours takes some hundred bytes.
_MAX_METADATA_BYTES = 16_384
#: Clients may ping this often, also between calls. More often closes the connection (ENHANCE_YOUR_CALM).
_MIN_PING_INTERVAL_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What requests may ask for; fields as in Limits of the contract.

    `max_bytes` and `max_work` of None are what suits the workers (see `admission`).
    """

    max_architectures_per_request: int = 10_000
    max_batch_size: int = 512
    max_resolution: int = 128
    max_num_classes: int = 10_000
    max_repeats: int = 64
    max_channels: int = 64
    max_cells_per_stage: int = 10
    max_message_bytes: int = 4 * 2**20
    max_queued_architectures: int = 100_000
    max_encoding_length: int = 10_000
    max_parameters: int = 500_000_000
    max_flops: int = 100_000_000_000
    max_layers: int = 1_000
    max_bytes: int | None = None
    max_in_flight_per_client: int = 50_000
    max_work: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server runs.

    Attributes:
        host: address that gRPC listens on.
        port: port that gRPC listens on; 0 takes a free one.
        metrics_host: address of the Prometheus page.
        metrics_port: port of the Prometheus page; 0 takes a free one.
        device: where evaluations run; "auto" takes the GPUs if there are any.
        data_dir: directory with the real datasets.
        workers: worker processes; None lets the pool choose.
        threads: CPU threads of each worker; None lets the pool choose.
        max_batch: architectures in a batch at most; None lets the pool choose.
        stack_size: networks evaluated side by side; None takes what was measured, or else what suits the device.
        cache_dir: where what was measured is kept; None is the user's cache.
        batch_delay: seconds that a free worker waits for more compatible work at most.
        heartbeat_timeout: seconds of silence after which a worker is taken to hang.
        batch_timeout: seconds that a batch may take at least, before its worker is taken to hang.
        store: file of the score store; None keeps scores in memory.
        max_stored_scores: scores that are kept at most.
        lame_duck: seconds after SIGTERM in which requests are still taken, while health says NOT_SERVING.
        grace: seconds that work in flight may take after that.
        write_timeout: seconds after which a stream is ended whose client does not read.
        health_port: port on which health alone is served, without TLS, at `host`; 0 takes a free one, None none.
        tls_certificate: the server's certificate, in PEM, and after it those of the CAs below its root.
        tls_key: the key of the certificate, in PEM.
        tls_client_ca: CAs in PEM of certificates that clients need; None if they need none.
        tokens: file of the tokens of which clients need one; None if they need none.
        insecure: whether to listen elsewhere than on loopback without TLS, or without tokens and clients' certificates.
        limits: what requests may ask for.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9464
    device: DeviceChoice = "auto"
    data_dir: Path | None = None
    workers: int | None = None
    threads: int | None = None
    max_batch: int | None = None
    stack_size: int | None = None
    cache_dir: Path | None = None
    batch_delay: float = 0.002
    heartbeat_timeout: float = 30.0
    batch_timeout: float = 60.0
    store: Path | None = None
    max_stored_scores: int = 10_000_000
    lame_duck: float = 3.0
    grace: float = 20.0
    write_timeout: float = 60.0
    health_port: int | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    insecure: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def grpc_options(self) -> list[tuple[str, int]]:
        """Channel arguments of the gRPC server."""
        return [
            ("grpc.max_receive_message_length", self.limits.max_message_bytes),
            # Soft and hard are one: gRPC refuses at random what is between them.
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.max_concurrent_streams", _MAX_STREAMS),
            # It counts streams that have ended, too, and so refuses those of clients that keep to the limit.
            ("grpc.http.overload_protection", 0),
            ("grpc.max_allowed_incoming_connections", min(_MAX_CONNECTIONS, _open_files() // 2)),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_MS),
            # A second server on the same port is an error, not a silent share of its connections.
            ("grpc.so_reuseport", 0),
            # Only what is not compressed: in old versions of gRPC a megabyte expands to gigabytes before it is refused.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            # No max_connection_age_grace: a stream may take as long as its work does.
            ("grpc.max_connection_age_ms", _MAX_CONNECTION_AGE_MS),
            ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            # Else gRPC waits for the answer to a ping for a minute, whatever the timeout of keepalive.
            ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
        ]


def _open_files() -> int:
    """Files that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_CONNECTIONS * 2 if soft == resource.RLIM_INFINITY else soft
