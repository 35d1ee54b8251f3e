"""What hostile and broken peers do with a connection."""

from __future__ import annotations

import asyncio
import gzip
import random
import string
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import hpack

from archscore.v1 import scoring_pb2
from fuzz.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Connection,
    Fields,
    frame,
    message,
    request_fields,
    settings,
)
from fuzz.payloads import SERVICE

#: Seconds in which a server answers what it will answer.
_SOON: Final = 0.25
#: Seconds for what it must answer.
_PATIENCE: Final = 60.0

_DESCRIBE: Final = f"{SERVICE}/DescribeArchitecture"
_LIST: Final = f"{SERVICE}/ListProxies"

#: What every server lets in.
CELL: Final = scoring_pb2.Architecture(space="nasbench201", encoding="index:6111")
SMALL: Final = scoring_pb2.EvaluationConfig(
    batch_size=2, resolution=8, nasbench201=scoring_pb2.NasBench201Config(channels=1, cells_per_stage=1)
)
_RIGHT: Final = scoring_pb2.DescribeArchitectureRequest(architecture=CELL, config=SMALL).SerializeToString()

#: Frames of a flood.
_FLOODS: Final = (100, 2_000, 20_000)


@dataclass(frozen=True)
class Attack:
    """A way to ill-treat a connection.

    Attributes:
        run: does it.
        statuses: gRPC statuses that may come of it.
        answered: the one status that must come of it, if one must.
    """

    run: Callable[[Connection, random.Random], Awaitable[None]]
    statuses: frozenset[str]
    answered: str | None = None


#: Statuses that any request may get.
_PLAIN: Final = frozenset({"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "CANCELLED", "DEADLINE_EXCEEDED"})

#: Statuses of gRPC itself, without details, for what breaks the rules of HTTP/2 or of gRPC so that no service sees it:
#: the connection ends, or the specification wants INTERNAL.
_BROKEN: Final = ("UNAVAILABLE", "INTERNAL")

ATTACKS: Final[dict[str, Attack]] = {}

_Run = Callable[[Connection, random.Random], Awaitable[None]]


def _attack(*more: str, answered: str | None = None) -> Callable[[_Run], _Run]:
    def register(run: _Run) -> _Run:
        name = getattr(run, "__name__", "").removeprefix("_").replace("_", " ")
        ATTACKS[name] = Attack(run, _PLAIN | set(more), answered)
        return run

    return register


@_attack()
async def _random_bytes(peer: Connection, rng: random.Random) -> None:
    await peer.send(rng.randbytes(rng.choice((1, 9, 24, 100, 10_000, 100_000))))
    await peer.answers(patience=_SOON)


@_attack()
async def _another_protocol(peer: Connection, rng: random.Random) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(508)
    line = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * rng.choice((0, 1, 5_000))
    await peer.send(
        rng.choice((hello, line + b"\r\n", line, b"PRI * HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"\0" * 5_000))
    )
    await peer.answers(patience=_SOON)


@_attack()
async def _preface_then_garbage(peer: Connection, rng: random.Random) -> None:
    await peer.send(PREFACE, rng.choice((b"", settings())), rng.randbytes(rng.choice((1, 9, 100, 10_000))))
    await peer.answers(patience=_SOON)


@_attack()
async def _silence(peer: Connection, rng: random.Random) -> None:
    """Connects, says nothing or only the beginning, and stays a while."""
    begun = PREFACE + settings() + peer.headers(1, request_fields(_DESCRIBE)) + frame(DATA, 0, 1, message(_RIGHT))
    await peer.send(
        begun[: rng.choice((0, 1, 23, 24, len(PREFACE) + 9, len(PREFACE) + 20, len(begun) - 1, len(begun)))]
    )
    await asyncio.sleep(rng.choice((0.0, 0.1, 1.0)))


@_attack(answered="OK")
async def _slowness(peer: Connection, rng: random.Random) -> None:
    """A right request, one byte at a time, must be answered right."""
    peer.listen(answering=False)  # not in the middle of a frame
    for byte in PREFACE + settings() + peer.call(1, _DESCRIBE, _RIGHT):
        await peer.send(bytes([byte]))
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.002)))
    await peer.answers(patience=_PATIENCE)


@_attack(*_BROKEN)
async def _random_frames(peer: Connection, rng: random.Random) -> None:
    await peer.open()
    for _ in range(rng.randint(1, 30)):
        payload = rng.randbytes(rng.choice((0, 1, 4, 5, 6, 8, 9, 100, 16_384, 16_385)))
        length = rng.choice((None, None, None, 0, len(payload) + 1, 2**14 + 1, 2**24 - 1))
        stream = rng.choice((0, 1, 1, 2, 3, 5, 2**31 - 1, 2**31, 2**32 - 1))
        await peer.send(
            frame(rng.choice((*range(10), 10, 99, 255)), rng.randrange(256), stream, payload, length=length)
        )
    await peer.answers(patience=_SOON)


@_attack(*_BROKEN)
async def _malformed_frames(peer: Connection, rng: random.Random) -> None:
    """One frame that breaks one rule, in the middle of a request."""
    await peer.open()
    begun = peer.headers(1, request_fields(_DESCRIBE))
    block = peer.encoder.encode(request_fields(_DESCRIBE))
    wrong = rng.choice(
        (
            frame(DATA, 0, 0, b"x"),
            frame(DATA, PADDED, 1, b"\xff" + b"x" * 10),
            frame(DATA, PADDED, 1, b""),
            frame(DATA, 0, 7, b"x"),
            frame(DATA, END_STREAM, 1, b"") + frame(DATA, 0, 1, b"x"),
            frame(DATA, 0, 1, b"x" * 70_000),
            frame(HEADERS, END_HEADERS, 0, block),
            frame(HEADERS, END_HEADERS, 2, block),
            frame(HEADERS, END_HEADERS, 1, block),
            frame(HEADERS, END_HEADERS, 9, block) + frame(HEADERS, END_HEADERS, 3, block),
            frame(HEADERS, END_HEADERS, 2**31 - 1, block) + frame(HEADERS, END_HEADERS, 3, block),
            frame(HEADERS, END_HEADERS | PADDED, 3, b"\xff" + block),
            frame(HEADERS, END_HEADERS | WITH_PRIORITY, 3, struct.pack(">IB", 3, 255) + block),
            frame(HEADERS, END_HEADERS | WITH_PRIORITY, 3, b"\0"),
            frame(HEADERS, 0, 3, block[:5]) + frame(PING, payload=b"x" * 8),
            frame(HEADERS, 0, 3, block[:5]) + frame(CONTINUATION, END_HEADERS, 5, block[5:]),
            frame(CONTINUATION, END_HEADERS, 1, block),
            frame(PRIORITY, 0, 0, b"\0" * 5),
            frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 0)),
            frame(PRIORITY, 0, 1, b"\0" * 4),
            *(
                frame(PRIORITY, 0, a, struct.pack(">IB", b, 1)) + frame(PRIORITY, 0, b, struct.pack(">IB", a, 1))
                for a, b in [(1, 3)]
            ),
            frame(RST_STREAM, 0, 0, b"\0" * 4),
            frame(RST_STREAM, 0, 99, b"\0" * 4),
            frame(RST_STREAM, 0, 1, b"\0" * 3),
            frame(SETTINGS, 0, 1, b""),
            frame(SETTINGS, 0, 0, b"\0" * 5),
            frame(SETTINGS, ACK, 0, b"\0" * 6),
            frame(SETTINGS, ACK) * 3,
            *(
                settings((number, value))
                for number in range(1, 8)
                for value in (0, 2, 2**14 - 1, 2**24, 2**31, 2**32 - 1)
            ),
            frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + block),
            frame(PING, 0, 0, b"x"),
            frame(PING, 0, 1, b"x" * 8),
            frame(PING, ACK, 0, b"x" * 8),
            frame(GOAWAY, 0, 0, b"\0" * 8),
            frame(GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, 0) + b"x" * 10_000),
            frame(GOAWAY, 0, 1, b"\0" * 8),
            frame(GOAWAY, 0, 0, b"\0" * 3),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)),
            frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 0)),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 2,
            frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 2**31 - 1)) * 2,
            frame(WINDOW_UPDATE, 0, 1, b"\0"),
            frame(WINDOW_UPDATE, 0, 77, struct.pack(">I", 1)),
            frame(99, 255, 1, b"x"),
            frame(DATA, 0, 1, b"", length=2**24 - 1),
        )
    )
    first = rng.random() < 0.2
    await peer.send(*((wrong, begun) if first else (begun, wrong)), frame(DATA, END_STREAM, 1, message(_RIGHT)))
    await peer.answers(patience=_SOON)


@_attack()
async def _goaway_first(peer: Connection, rng: random.Random) -> None:
    await peer.send(PREFACE, frame(GOAWAY, 0, 0, b"\0" * 8), settings(), peer.call(1, _DESCRIBE, _RIGHT))
    await peer.answers(patience=_SOON)


@_attack(*_BROKEN)
async def _continuations(peer: Connection, rng: random.Random) -> None:
    """Headers that do not end."""
    await peer.open()
    block = peer.encoder.encode(request_fields(_DESCRIBE))
    piece = rng.choice((b"", b"\x00\x01a\x01b", b"\x00\x01a\x7f\x80\x7f" + b"x" * 16_000))
    await peer.send(
        frame(HEADERS, 0, 1, block), frame(CONTINUATION, 0, 1, piece) * (rng.choice(_FLOODS) // (1 + len(piece) // 100))
    )
    if rng.random() < 0.5:
        await peer.send(frame(CONTINUATION, END_HEADERS, 1, b""), frame(DATA, END_STREAM, 1, message(_RIGHT)))
    await peer.answers(patience=_SOON)


@_attack(*_BROKEN)
async def _header_compression(peer: Connection, rng: random.Random) -> None:
    """A little that stands for much, and what stands for nothing."""
    await peer.open()
    block = peer.encoder.encode(request_fields(_DESCRIBE))
    kept = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4_000  # enters the table, as the entry that is then 62
    wrong = rng.choice(
        (
            *(kept + b"\xbe" * times for times in (2, 100, 4_000, 16_000)),
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x80",
            b"\xff\x80\x80\x80\x80\x80\x80\x01",
            b"\x3f\xff\xff\xff\xff\x0f",
            b"\x3f\xe1\x7f" * 50,
            b"\x00\x81\xff\x81\xff",
            b"\x00\x88" + b"\xff" * 8 + b"\x00",
            b"\x00\x7f\xff\xff\xff\xff\x0f",
            b"\x00\x01A\x01b",
            b"\x00\x00\x00",
            b"\x20" * 1_000,
            rng.randbytes(rng.choice((1, 10, 1_000))),
        )
    )
    parts = [(block + wrong)[start : start + 16_000] for start in range(0, len(block + wrong), 16_000)]
    await peer.send(frame(HEADERS, 0, 1, parts[0]), *(frame(CONTINUATION, 0, 1, part) for part in parts[1:]))
    await peer.send(frame(CONTINUATION, END_HEADERS, 1, b""), frame(DATA, END_STREAM, 1, message(_RIGHT)))
    await peer.answers(patience=_SOON)


@_attack(*_BROKEN)
async def _floods(peer: Connection, rng: random.Random) -> None:
    """Thousands of small frames that each want an answer, or at least a thought; mostly by one who does not read."""
    if rng.random() < 0.5:
        await peer.open()
    else:
        await peer.send(PREFACE, settings())
    begun = peer.headers(1, request_fields(_DESCRIBE))
    one = rng.choice(
        (
            settings(),
            settings((1, 0), (1, 4096)),
            settings((4, 2**31 - 1), (4, 0)),
            frame(PING, payload=b"x" * 8),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
            frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 1)),
            frame(PRIORITY, 0, 2**30 + 1, struct.pack(">IB", 3, 1)),
            frame(DATA, 0, 1, b""),
            frame(DATA, PADDED, 1, b"\x09" + b"\0" * 9),
            frame(RST_STREAM, 0, 1, struct.pack(">I", 8)),
            frame(99, 0, 0, b""),
        )
    )
    await peer.send(begun, one * rng.choice(_FLOODS))
    await peer.answers(patience=_SOON)


@_attack(*_BROKEN)
async def _rapid_reset(peer: Connection, rng: random.Random) -> None:
    """Requests that are taken back at once."""
    await peer.open()
    reset = struct.pack(">I", 8)
    for stream in range(1, 2 * rng.choice((50, 500, 3_000)), 2):
        call = (
            peer.call(stream, _DESCRIBE, _RIGHT) if rng.random() < 0.5 else peer.headers(stream, request_fields(_LIST))
        )
        await peer.send(call, frame(RST_STREAM, 0, stream, reset))
    await peer.answers(patience=_SOON)


@_attack()
async def _lies_about_length(peer: Connection, rng: random.Random) -> None:
    await peer.open()
    length = rng.choice((2**32 - 1, 2**31, 2**24, len(_RIGHT) + 1, len(_RIGHT) - 1, 1, 0))
    body = message(_RIGHT, length=length) + rng.choice((b"", b"x", message(_RIGHT), b"\0\0\0"))
    flags = rng.choice((0, END_STREAM))
    await peer.send(peer.headers(1, request_fields(_DESCRIBE)), frame(DATA, flags, 1, body))
    await peer.answers(patience=_SOON)


@_attack(*_BROKEN, "UNIMPLEMENTED")
async def _compression(peer: Connection, rng: random.Random) -> None:
    """INTERNAL is what gRPC's specification wants where a message is marked as compressed and says not how."""
    await peer.open()
    bombs = (gzip.compress(bytes(2**26)), zlib.compress(bytes(2**26)))
    name, body = rng.choice(
        (
            *(
                ("gzip", body)
                for body in (b"garbage", b"", gzip.compress(_RIGHT), gzip.compress(_RIGHT)[:-3], bombs[0])
            ),
            *(("deflate", body) for body in (b"garbage", zlib.compress(_RIGHT), bombs[1])),
            *((name, b"garbage") for name in ("br", "identity", "", "gzip,deflate", "x" * 1_000)),
        )
    )
    more = () if rng.random() < 0.2 else (("grpc-encoding", name),)
    whole = message(body, compressed=rng.choice((1, 1, 1, 2, 255)))
    await peer.send(peer.headers(1, request_fields(_DESCRIBE, *more)))
    # As much as the windows let through without asking.
    parts = [whole[start : start + 16_000] for start in range(0, min(len(whole), 65_000), 16_000)]
    await peer.send(*(frame(DATA, 0, 1, part) for part in parts[:-1]), frame(DATA, END_STREAM, 1, parts[-1]))
    await peer.answers(patience=_SOON)


@_attack(answered="OK")
async def _interleaved(peer: Connection, rng: random.Random) -> None:
    """Requests in pieces, all at the same time: those that are finished must be answered right."""
    await peer.open()
    whole = {stream: message(_RIGHT) for stream in range(1, 41, 2)}
    for stream in whole:
        await peer.send(peer.headers(stream, request_fields(_DESCRIBE)))
    unfinished = set(rng.sample(sorted(whole), rng.choice((0, 5))))
    rest = dict(whole)
    while rest:
        stream = rng.choice(sorted(rest))
        size = rng.choice((0, 1, 5, 100))
        part, rest[stream] = rest[stream][:size], rest[stream][size:]
        last = not rest[stream]
        if last:
            del rest[stream]
        if last and stream in unfinished:
            continue
        await peer.send(frame(DATA, END_STREAM if last else 0, stream, part))
    await peer.answers(len(whole) - len(unfinished), patience=_PATIENCE)


@_attack(*_BROKEN, "UNIMPLEMENTED")
async def _headers(peer: Connection, rng: random.Random) -> None:
    """Headers that break the rules of HTTP/2 or of gRPC."""
    await peer.open()
    fields = _wrong_fields(rng)
    block = hpack.Encoder().encode(fields)
    parts = [block[start : start + 16_000] for start in range(0, len(block), 16_000)]
    await peer.send(frame(HEADERS, 0, 1, parts[0]), *(frame(CONTINUATION, 0, 1, part) for part in parts[1:]))
    await peer.send(frame(CONTINUATION, END_HEADERS, 1, b""), frame(DATA, END_STREAM, 1, message(_RIGHT)))
    await peer.answers(patience=_SOON)


@_attack(answered="OK")
async def _reads_nothing(peer: Connection, rng: random.Random) -> None:
    """Asks and asks, and has no room for answers; then makes room, and must be answered."""
    await peer.open((4, 0))
    calls = rng.choice((1, 20, 100))
    for stream in range(1, 2 * calls, 2):
        await peer.send(peer.call(stream, _LIST, b""))
    await asyncio.sleep(0.1)
    if rng.random() < 0.5:
        await peer.send(settings((4, 2**20)), frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**28)))
        await peer.answers(calls, patience=_PATIENCE)
    else:
        peer.statuses["OK"] += 1  # it leaves without


@_attack()
async def _oversized(peer: Connection, rng: random.Random) -> None:
    """More than the server takes, and more than its windows let through."""
    await peer.open()
    size = rng.choice((70_000, 2**20 + 1, 2**22))
    await peer.send(peer.headers(1, request_fields(_DESCRIBE)))
    await peer.send(frame(DATA, 0, 1, message(b"", length=size)), frame(DATA, 0, 1, b"x" * 16_000) * (size // 16_000))
    await peer.answers(patience=_SOON)


def _wrong_fields(rng: random.Random) -> Fields:
    fields = request_fields(_DESCRIBE)
    names = [name for name, _ in fields]
    change = rng.randrange(4)
    if change == 0:  # one left out, or twice
        place = rng.randrange(len(fields))
        return fields[:place] + fields[place + 1 :] if rng.random() < 0.5 else [*fields, fields[place]]
    if change == 1:  # one that says else
        wrong = {
            ":method": ("GET", "PUT", "CONNECT", "", "post"),
            ":scheme": ("https", "", "ftp"),
            ":path": (
                "",
                "/",
                "x",
                "*",
                f"{SERVICE}/Nothing",
                "/a/b/c",
                "//",
                "/" + "x" * 7_000,
                "/x\0y",
                f"{_DESCRIBE}?x=1",
            ),
            ":authority": ("", "x" * 3_000, "a\nb", "[::1"),
            "content-type": (
                "",
                "text/html",
                "application/json",
                "application/grpc+json",
                "application/grpc-web",
                "APPLICATION/GRPC",
            ),
            "te": ("", "gzip"),
        }
        name = rng.choice(names)
        return [(known, rng.choice(wrong[known]) if known == name else value) for known, value in fields]
    if change == 2:  # an odd one more
        odd = [
            *(
                ("grpc-timeout", value)
                for value in ("", "-1S", "1", "1x", "99999999H", "999999999999S", "1n", "0S", "9" * 500)
            ),
            *(("connection", "close"), ("upgrade", "h2c"), ("transfer-encoding", "chunked"), ("content-length", "5")),
            *(
                (":status", "200"),
                (":no-such", "x"),
                ("UPPER", "x"),
                ("", "x"),
                ("a b", "x"),
                ("a\nb", "x"),
                ("é", "x"),
            ),
            *(
                ("x", "a\r\nb"),
                ("x", "a\0b"),
                ("x", "é\x7f"),
                ("x-bin", "not base64!"),
                ("x-bin", "===="),
                ("x-bin", ""),
            ),
            *(("archscore-client-id", value) for value in ("x" * 3_000, "a\nERROR forged", "\x1b[2J", "é", "")),
            *(
                ("grpc-encoding", "\0"),
                ("grpc-accept-encoding", "x" * 500),
                ("grpc-message-type", "x"),
                ("host", "a, b"),
            ),
            *(("authorization", "Bearer " + "x" * 6_000), ("cookie", "a=b; " * 500), ("user-agent", "\x01")),
        ]
        return [*fields, *rng.choices(odd, k=rng.choice((1, 1, 3)))]
    # far too many
    letters = "".join(rng.choices(string.ascii_lowercase, k=20))
    if rng.random() < 0.5:
        return [*fields, (letters, "x" * rng.choice((8_000, 9_000, 17_000, 200_000, 2**20)))]
    return [*fields, *((f"{letters}{number}", "x") for number in range(rng.choice((100, 1_000, 20_000))))]
