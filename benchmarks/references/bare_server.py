"""A grpc.aio server that does nothing: what any service in Python pays before it does anything.

    python benchmarks/references/bare_server.py RESPONSES

Answers `/bare/Echo` with the bytes that it was sent, and `/bare/Stream` with the messages of the file RESPONSES, each
preceded by its length in four bytes. Prints its port.
"""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from archscore.v1 import scoring_pb2

Context = grpc.aio.ServicerContext[Any, Any]


def read_messages(path: Path) -> list[bytes]:
    """The messages of a file."""
    data, messages, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("!I", data, at)
        messages.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return messages


def write_messages(path: Path, messages: list[bytes]) -> None:
    """Writes a file of messages."""
    path.write_bytes(b"".join(struct.pack("!I", len(message)) + message for message in messages))


async def serve(responses: list[scoring_pb2.ScoreArchitecturesResponse]) -> None:
    """Serves until SIGINT."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)

    async def echo(request: bytes, _context: Context) -> bytes:
        return request

    async def stream(
        _request: scoring_pb2.ScoreArchitecturesRequest, _context: Context
    ) -> AsyncIterator[scoring_pb2.ScoreArchitecturesResponse]:
        for response in responses:
            yield response

    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.unary_stream_rpc_method_handler(
            stream,
            request_deserializer=scoring_pb2.ScoreArchitecturesRequest.FromString,
            response_serializer=scoring_pb2.ScoreArchitecturesResponse.SerializeToString,
        ),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    parsed = [scoring_pb2.ScoreArchitecturesResponse.FromString(raw) for raw in read_messages(Path(sys.argv[1]))]
    asyncio.run(serve(parsed))
