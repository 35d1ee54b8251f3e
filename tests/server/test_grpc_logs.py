"""What peers can make gRPC log."""

import asyncio
import logging

import pytest

from archscore_server import _grpc_logs
from fuzz.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, Connection, frame, message, request_fields
from support.serving import Serving

#: A header `x` whose value is no UTF-8, as HPACK has it.
NOT_TEXT = b"\x00\x01x\x02\xff\xfe"


async def send_metadata_that_is_no_text(served: Serving) -> Connection:
    peer = Connection(*await asyncio.open_connection("127.0.0.1", served.server.port))
    await peer.open()
    block = peer.encoder.encode(request_fields("/archscore.v1.ScoringService/ListProxies"))
    await peer.send(frame(HEADERS, END_HEADERS, 1, block + NOT_TEXT), frame(DATA, END_STREAM, 1, message(b"")))
    await peer.answers(patience=10)
    await peer.end(abort=False)
    return peer


async def test_metadata_that_is_no_text_is_not_logged(served: Serving, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("grpc._cython.cygrpc")
    before = list(logger.filters)
    try:
        _grpc_logs.drop_peers_faults()
        peer = await send_metadata_that_is_no_text(served)
    finally:
        logger.filters[:] = before
    assert peer.statuses, peer.outcome
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_other_records_of_grpc_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("grpc._cython.cygrpc")
    before = list(logger.filters)
    try:
        _grpc_logs.drop_peers_faults()
        logger.error("Unexpected [%s]", "x")
    finally:
        logger.filters[:] = before
    assert caplog.messages == ["Unexpected [x]"]
