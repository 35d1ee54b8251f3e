"""HTTP/2 frames by hand, right and wrong, and a connection that sends whatever it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from typing import Final

import grpc
import hpack

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

ACK = END_STREAM = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

ERRORS: Final = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED"),
    *("FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
STATUSES: Final = {code.value[0]: code.name for code in grpc.StatusCode}

Fields = list[tuple[str, str]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """A frame; its length may be a lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(*values: tuple[int, int]) -> bytes:
    """A SETTINGS frame of (identifier, value) pairs."""
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *value) for value in values))


def message(body: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A message with gRPC's prefix, which may be a lie."""
    return bytes([compressed]) + struct.pack(">I", len(body) if length is None else length) + body


def request_fields(path: str, *more: tuple[str, str]) -> Fields:
    """The headers of a right request."""
    return [
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")),
        *(("content-type", "application/grpc"), ("te", "trailers")),
        *more,
    ]


class Connection:
    """A connection to a server, and what the server has said on it.

    Attributes:
        statuses: gRPC statuses that came, by name.
        answered: streams that the server has ended.
        faults: RST_STREAM and GOAWAY frames that came and HTTP statuses other than 200, in words.
        settings: the server's settings, by identifier.
        closed: whether the server has closed it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.encoder = hpack.Encoder()
        self.statuses: Counter[str] = Counter()
        self.answered: set[int] = set()
        self.faults: Counter[str] = Counter()
        self.settings: dict[int, int] = {}
        self.closed = False
        self._reader, self._writer = reader, writer
        self._decoder = hpack.Decoder()
        self._decoder.max_header_list_size = 2**20
        self._news = asyncio.Event()
        self._block = b""
        self._answering = True
        self._listening: asyncio.Task[None] | None = None

    async def send(self, *data: bytes) -> None:
        """Sends bytes, as far as the server takes them."""
        self._writer.write(b"".join(data))
        await self._writer.drain()

    async def open(self, *values: tuple[int, int]) -> None:
        """Begins as a client should, and listens."""
        self.listen()
        await self.send(PREFACE, settings(*values))

    def headers(self, stream: int, fields: Fields, flags: int = END_HEADERS) -> bytes:
        """A HEADERS frame."""
        return frame(HEADERS, flags, stream, self.encoder.encode(fields))

    def call(self, stream: int, path: str, body: bytes) -> bytes:
        """A whole request."""
        return self.headers(stream, request_fields(path)) + frame(DATA, END_STREAM, stream, message(body))

    def listen(self, *, answering: bool = True) -> None:
        """Reads what comes from now on, and answers what wants an answer of the connection itself."""
        self._answering = answering
        if not self._listening:
            self._listening = asyncio.create_task(self._listen())

    async def answers(self, streams: int = 1, *, patience: float) -> None:
        """Waits until so many streams have ended, or the connection, or it has taken too long."""
        if not self._listening:
            self.listen()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not self.closed and len(self.answered) < streams:
                    self._news.clear()
                    await self._news.wait()

    async def end(self, *, abort: bool) -> None:
        """Closes it, in order or with a reset."""
        if self._listening:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        with contextlib.suppress(OSError):  # it may be closed already
            if abort:
                linger = struct.pack("ii", 1, 0)
                self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._writer.transport.abort()
            self._writer.close()
            await self._writer.wait_closed()

    @property
    def outcome(self) -> str:
        """What the server has said, in words."""
        said = [f"status {name}" for name in sorted(self.statuses)] + sorted(self.faults)
        if self.closed:
            said.append("closed")
        return ", ".join(said) or "nothing"

    async def _listen(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                await self._heard(head[3], head[4], int.from_bytes(head[5:]), payload)
        except (OSError, asyncio.IncompleteReadError):
            self.closed = True
        finally:
            self._news.set()

    async def _heard(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (HEADERS, CONTINUATION):
            self._block += payload
            if flags & END_HEADERS:
                self._fields(self._decoder.decode(self._block))
                self._block = b""
        elif kind == RST_STREAM:
            self.faults[f"RST_STREAM {_error(payload)}"] += 1
        elif kind == GOAWAY:
            self.faults[f"GOAWAY {_error(payload[4:])}"] += 1
        elif kind == SETTINGS and not flags & ACK:
            self.settings.update(struct.iter_unpack(">HI", payload))
            if self._answering:
                await self.send(frame(SETTINGS, ACK))
        elif kind == PING and not flags & ACK and self._answering:
            await self.send(frame(PING, ACK, payload=payload))
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.answered.add(stream)
            self._news.set()

    def _fields(self, fields: Fields) -> None:
        detailed = any(name == "grpc-status-details-bin" for name, _ in fields)
        for name, value in fields:
            if name == "grpc-status":
                status = STATUSES.get(int(value), value)
                # gRPC's own come without details.
                self.statuses[f"{status} with details" if detailed and status == "INTERNAL" else status] += 1
            elif name == ":status" and value != "200":
                self.faults[f"HTTP {value}"] += 1


def _error(payload: bytes) -> str:
    code = int.from_bytes(payload[:4])
    return ERRORS[code] if code < len(ERRORS) else str(code)
