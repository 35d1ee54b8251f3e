"""What can be set about a server: one frozen object, filled by the command line or by tests."""

from __future__ import annotations

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
#: Clients may ping this often, also between calls. More often closes the connection (ENHANCE_YOUR_CALM).
_MIN_PING_INTERVAL_MS = 10_000
#: RPCs of one connection at a time; a client's further ones wait until there is room.
_MAX_CONCURRENT_STREAMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What requests may ask for; fields as in Limits of the contract. `max_bytes` of None is what the workers have."""

    max_architectures_per_request: int = 10_000
    max_batch_size: int = 512
    max_resolution: int = 128
    max_num_classes: int = 10_000
    max_repeats: int = 64
    max_channels: int = 64
    max_cells_per_stage: int = 10
    max_message_bytes: int = 16 * 2**20
    max_queued_architectures: int = 100_000
    max_encoding_length: int = 10_000
    max_parameters: int = 500_000_000
    max_flops: int = 100_000_000_000
    max_layers: int = 1_000
    max_bytes: int | None = None


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
        batch_delay: seconds that a free worker waits for more compatible work at most.
        heartbeat_timeout: seconds of silence after which a worker is taken to hang.
        batch_timeout: seconds that a batch may take at least, before its worker is taken to hang.
        store: file of the score store; None keeps scores in memory.
        max_stored_scores: scores that are kept at most.
        lame_duck: seconds after SIGTERM in which requests are still taken, while health says NOT_SERVING.
        grace: seconds that work in flight may take after that.
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
    batch_delay: float = 0.002
    heartbeat_timeout: float = 30.0
    batch_timeout: float = 60.0
    store: Path | None = None
    max_stored_scores: int = 10_000_000
    lame_duck: float = 3.0
    grace: float = 20.0
    limits: Limits = field(default_factory=Limits)

    @property
    def grpc_options(self) -> list[tuple[str, int]]:
        """Channel arguments of the gRPC server."""
        return [
            ("grpc.max_receive_message_length", self.limits.max_message_bytes),
            ("grpc.max_send_message_length", self.limits.max_message_bytes),
            # A second server on the same port is an error, not a silent share of its connections.
            ("grpc.so_reuseport", 0),
            # Requests that are taken back at once pile up in front of the service, and from 1,000 on gRPC cancels some,
            # whose ever they are: a bound on each connection keeps them with who sends them.
            ("grpc.max_concurrent_streams", _MAX_CONCURRENT_STREAMS),
            # Only what is not compressed: in old versions of gRPC a megabyte expands to gigabytes before it is refused.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            # No max_connection_age_grace: a stream may take as long as its work does.
            ("grpc.max_connection_age_ms", _MAX_CONNECTION_AGE_MS),
            ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
        ]
