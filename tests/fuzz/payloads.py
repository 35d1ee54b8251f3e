"""Requests of every RPC, right and wrong, drawn from the descriptors of their messages with a seeded generator."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from archscore.v1 import scoring_pb2
from archscore_server import pagination
from archscore_server.engine.datasets import GAUSSIAN
from fuzz import encodings, wire

SERVICE: Final = "/archscore.v1.ScoringService"
HEALTH: Final = "/grpc.health.v1.Health"
REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection"


@dataclass(frozen=True)
class Method:
    """An RPC.

    Attributes:
        path: its full name.
        request: type of its requests.
        response: type of its responses.
        client_streams: whether there may be many requests.
        server_streams: whether there may be many responses.
        share: how often it is called, in comparison.
    """

    path: str
    request: type[Message]
    response: type[Message]
    client_streams: bool = False
    server_streams: bool = False
    share: int = 1


METHODS: Final = {
    method.path.rpartition("/")[2]: method
    for method in (
        Method(
            f"{SERVICE}/ScoreArchitecture",
            scoring_pb2.ScoreArchitectureRequest,
            scoring_pb2.ScoreArchitectureResponse,
            share=5,
        ),
        Method(
            f"{SERVICE}/ScoreArchitectures",
            scoring_pb2.ScoreArchitecturesRequest,
            scoring_pb2.ScoreArchitecturesResponse,
            server_streams=True,
            share=5,
        ),
        Method(
            f"{SERVICE}/DescribeArchitecture",
            scoring_pb2.DescribeArchitectureRequest,
            scoring_pb2.DescribeArchitectureResponse,
            share=3,
        ),
        Method(f"{SERVICE}/ListProxies", scoring_pb2.ListProxiesRequest, scoring_pb2.ListProxiesResponse),
        Method(
            f"{SERVICE}/ListSearchSpaces", scoring_pb2.ListSearchSpacesRequest, scoring_pb2.ListSearchSpacesResponse
        ),
        Method(f"{SERVICE}/GetServerInfo", scoring_pb2.GetServerInfoRequest, scoring_pb2.GetServerInfoResponse),
        Method(f"{HEALTH}/Check", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
        Method(f"{HEALTH}/Watch", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse, server_streams=True),
        Method(
            f"{REFLECTION}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest,
            reflection_pb2.ServerReflectionResponse,
            client_streams=True,
            server_streams=True,
        ),
    )
}

#: Proxies that are asked for: cheap ones, since what is looked for is not in the engine.
PROXIES: Final = ("parameters", "flops", "l2_norm", "naswot", "snip", "synflow", "tcet")

#: Encodings that are let in, of which a run uses few: what the server keeps of them is bounded, but not small.
_UNIVERSE: Final = 200

_ODD_TEXTS: Final = (
    *("", " ", "\0", "\n", "x\r\nERROR forged", "\x1b[2J", "é", "😀", "\u202e", "%s%n", "{}", "'", "../../etc/passwd"),
    *("a" * 61, "é" * 5_000, "x" * 20_000, "npz:" + "a" * 65, "npz:../x", "npz:", "npz:a\0b"),
)

_ODD_INTEGERS: Final = (0, 1, 2, 3, 4, 7, 8, 63, 64, 65, 127, 128, 255, 256, 10_000, 10_001, 2**16, 2**31 - 1)
_ODD_NUMBERS: Final = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 5e-324, 1.8e308, 2.0**63)

#: Fields that are mostly set: a request without them is refused, or asks for a large network.
_SET: Final = (
    *("architecture", "architectures", "space", "encoding", "proxies"),
    *("config", "batch_size", "nasbench201", "channels", "cells_per_stage"),
)

_NAMES: Final = (
    *("archscore.v1.ScoringService", "archscore.v1.Architecture", "archscore.v1.EvaluationConfig.dataset"),
    *(
        "archscore/v1/scoring.proto",
        "google/rpc/status.proto",
        "google.protobuf.Any",
        "grpc.health.v1.Health",
        "no.such",
        "",
    ),
)


@dataclass(frozen=True)
class Payload:
    """What is sent.

    Attributes:
        kind: how it was made.
        method: name of the RPC.
        bodies: the messages; one unless the client streams.
        metadata: what goes with them.
        leave: seconds after which the caller goes away; None to wait for the end.
        deadline: seconds that the server is told; None for the caller's own patience.
    """

    kind: str
    method: str
    bodies: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    leave: float | None = None
    deadline: float | None = None


def payload(seed: int, number: int, *, most_bytes: int) -> Payload:
    """Input `number`.

    Args:
        seed: with the number, makes an input.
        number: which.
        most_bytes: of a message that the server takes; some are a little or much larger.
    """
    rng = random.Random(f"{seed} message {number}")
    name = rng.choices(tuple(METHODS), weights=[method.share for method in METHODS.values()])[0]
    kind = rng.choices(tuple(_KINDS), weights=[share for share, _ in _KINDS.values()])[0]
    make = _KINDS[kind][1]
    count = rng.choice((0, 1, 1, 2, 5)) if METHODS[name].client_streams else 1
    bodies = tuple(make(name, rng, most_bytes) for _ in range(count))
    leave = rng.choice((0.0, 0.001, 0.01)) if rng.random() < 0.04 else None
    # Not where the client streams: grpc.aio says INTERNAL of a write that comes after the deadline.
    hurries = rng.random() < 0.04 and not METHODS[name].client_streams
    deadline = rng.choice((0.0005, 0.002, 0.02)) if hurries else None
    return Payload(kind, name, bodies, _metadata(rng), leave, deadline)


def request(name: str, rng: random.Random, *, odd: float) -> Message:
    """A request of a method, whose values are odd in that share and otherwise likely to be taken."""
    message = METHODS[name].request()
    _fill(message, rng, odd)
    if rng.random() >= odd:
        _reconcile(message, rng)
    return message


def _likely(name: str, rng: random.Random, _most: int) -> bytes:
    return request(name, rng, odd=0.0).SerializeToString()


def _valid(name: str, rng: random.Random, _most: int) -> bytes:
    return request(name, rng, odd=rng.choice((0.02, 0.1, 0.5, 1.0))).SerializeToString()


def _mutated(name: str, rng: random.Random, _most: int) -> bytes:
    return wire.mutated(request(name, rng, odd=rng.choice((0.0, 0.1))).SerializeToString(), rng)


def _merged(name: str, rng: random.Random, _most: int) -> bytes:
    """Two messages one after the other: their fields are merged."""
    return b"".join(request(name, rng, odd=0.1).SerializeToString() for _ in range(2))


def _foreign(_name: str, rng: random.Random, _most: int) -> bytes:
    """A message of another method."""
    return request(rng.choice(tuple(METHODS)), rng, odd=0.1).SerializeToString()


def _random(_name: str, rng: random.Random, _most: int) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 2, 10, 100, 5_000)))


def _large(name: str, rng: random.Random, most: int) -> bytes:
    """A message of about the size that is taken at most: one long text, or many small fields."""
    body = request(name, rng, odd=0.0).SerializeToString()
    size = rng.choice((most // 2, most - len(body) - 10, most + 1, 2 * most))
    piece = rng.choice(
        (wire.key(1, wire.BYTES) + b"\0", wire.key(2, wire.BYTES) + b"\x01x", wire.key(99, wire.VARINT) + b"\1")
    )
    if rng.random() < 0.5:
        return body + piece * (size // len(piece))
    return body + wire.key(rng.choice((1, 2, 99)), wire.BYTES) + wire.varint(size) + b"x" * size


_KINDS: Final[dict[str, tuple[int, Callable[[str, random.Random, int], bytes]]]] = {
    "likely": (150, _likely),
    "valid": (250, _valid),
    "mutated": (450, _mutated),
    "merged": (50, _merged),
    "foreign": (40, _foreign),
    "random": (50, _random),
    "large": (5, _large),
}


def _fill(message: Message, rng: random.Random, odd: float) -> None:
    for field in message.DESCRIPTOR.fields:
        if rng.random() < _unset(field, odd):
            continue
        if field.is_repeated:
            for _ in range(rng.choice((1, 1, 2, 5, 40))):
                if field.message_type:
                    _fill(getattr(message, field.name).add(), rng, odd)
                else:
                    getattr(message, field.name).append(_value(field, rng, odd))
        elif field.message_type:
            inner = getattr(message, field.name)
            inner.SetInParent()
            _fill(inner, rng, odd)
        else:
            setattr(message, field.name, _value(field, rng, odd))


def _reconcile(message: Any, rng: random.Random) -> None:
    """Makes fields go together: each proxy once, one search space, and no config of another."""
    if hasattr(message, "proxies"):
        message.proxies[:] = dict.fromkeys(message.proxies)
    if hasattr(message, "architectures"):
        architectures = message.architectures
    elif hasattr(message, "architecture"):
        architectures = [message.architecture]
    else:
        return
    space = _space(rng)
    for architecture in architectures:
        if architecture.space != space:
            architecture.space, architecture.encoding = space, _encoding(rng, space)
    for other in encodings.SPACE_NAMES:
        if other != space:
            message.config.ClearField(other)


def _unset(field: FieldDescriptor, odd: float) -> float:
    """How likely a field is not set: the more is set, the more can be refused."""
    if field.name in _SET:
        return odd / 4
    return 0.5 if odd else 0.8


def _value(field: FieldDescriptor, rng: random.Random, odd: float) -> Any:
    likely = _LIKELY.get(field.name)
    if likely and rng.random() >= odd:
        return likely(rng)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.choice((0, 1, 100)))
            return rng.choice(rng.choice((_ODD_TEXTS, _NAMES)))
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return rng.choice(_ODD_NUMBERS)
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice((0, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1, -(2**31)))
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice((*_ODD_INTEGERS, -1, -(2**31)))
        case FieldDescriptor.CPPTYPE_INT64:
            return rng.choice((*_ODD_INTEGERS, -1, -(2**63), 2**63 - 1))
        case FieldDescriptor.CPPTYPE_UINT32:
            return rng.choice((*_ODD_INTEGERS, 2**32 - 1))
        case FieldDescriptor.CPPTYPE_UINT64:
            return rng.choice((*_ODD_INTEGERS, 2**32 - 1, 2**32, 2**64 - 1))
    raise AssertionError(f"no values for {field.full_name}")


def _space(rng: random.Random) -> str:
    return rng.choice(encodings.SPACE_NAMES) if rng.random() < 0.1 else "nasbench201"


def _encoding(rng: random.Random, space: str = "nasbench201") -> str:
    """Mostly one of few that are let in; else anything that UTF-8 can carry."""
    if rng.random() < 0.8:
        return encodings.valid(space, random.Random(rng.randrange(_UNIVERSE)))
    _, _, text = encodings.encoding(rng.randrange(2**32), 0)
    return text.encode(errors="replace").decode()


def _page_token(rng: random.Random) -> str:
    names = ("proxies", "search_spaces", "nothing")
    _, token = pagination.page(rng.choice(names), ["a", "b", rng.choice(PROXIES)], 1, "")
    return rng.choice((token, token[:-1], token + "=", "===="))


#: What is likely to be taken, by name of the field. Few distinct configs: the server keeps something of each.
_LIKELY: Final[dict[str, Callable[[random.Random], Any]]] = {
    "space": _space,
    "encoding": _encoding,
    "proxies": lambda rng: rng.choice(PROXIES),
    "dataset": lambda rng: rng.choice((*[GAUSSIAN] * 8, "cifar10", "npz:absent")),
    "batch_size": lambda rng: rng.choice((2, 8)),
    "resolution": lambda rng: rng.choice((8, 32)),
    "num_classes": lambda rng: rng.choice((2, 10)),
    "seed": lambda rng: rng.choice((0, 1, 2**32 - 1)),
    "repeats": lambda rng: rng.choice((1, 1, 2)),
    "init": lambda rng: rng.randrange(5),
    "precision": lambda rng: rng.randrange(4),
    "priority": lambda rng: rng.randrange(4),
    "channels": lambda rng: rng.choice((1, 4)),
    "cells_per_stage": lambda _: 1,
    "page_size": lambda rng: rng.choice((0, 1, 5, 1_000)),
    "page_token": _page_token,
    "service": lambda rng: rng.choice(("", "archscore.v1.ScoringService", "no.such")),
    **dict.fromkeys(("file_by_filename", "file_containing_symbol", "containing_type"), lambda rng: rng.choice(_NAMES)),
}


def _metadata(rng: random.Random) -> tuple[tuple[str, str | bytes], ...]:
    if rng.random() < 0.7:
        return ()
    clients = (
        "a",
        "b",
        "",
        " ",
        "x" * 64,
        "x" * 65,
        "x" * 2_000,
        "id:a",
        "token:a",
        "'; DROP TABLE scores; --",
        "%s{}",
    )
    choices: tuple[tuple[str, str | bytes], ...] = (
        *(("archscore-client-id", client) for client in clients),
        ("archscore-client-id-bin", rng.randbytes(10)),
        ("authorization", "Bearer " + "x" * rng.choice((0, 10, 1_000))),
        ("grpc-retry-pushback-ms", "-1"),
        ("grpc-previous-rpc-attempts", "99999999999"),
        ("traceparent", "00-0-0-00"),
        ("x-bin", rng.randbytes(rng.choice((0, 1, 1_000)))),
    )
    return tuple(rng.choices(choices, k=rng.choice((1, 1, 2, 4))))
