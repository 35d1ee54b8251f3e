"""Responses of a stream, put together from results that are serialized already.

Most results that come fast are the same bytes again and again, but for their index. On the wire a message is its fields
one after the other, and a repeated field of messages looks like one of bytes: so they need not be parsed to be sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from archscore.v1 import scoring_pb2

_Field = descriptor_pb2.FieldDescriptorProto


def numbered(index: int, result: bytes) -> bytes:
    """A serialized ArchitectureResult with its index, of one without."""
    return _index(index) + result


def response(results: Sequence[bytes]) -> bytes:
    """A serialized ScoreArchitecturesResponse of serialized results."""
    message: bytes = _Response(results=results).SerializeToString()
    return message


@lru_cache(4_096)
def _index(index: int) -> bytes:
    return scoring_pb2.ArchitectureResult(index=index).SerializeToString()


def _twin() -> Any:
    """The message that is as ScoreArchitecturesResponse, but for its results: bytes."""
    original = scoring_pb2.ScoreArchitecturesResponse.DESCRIPTOR.fields_by_name["results"]
    file = descriptor_pb2.FileDescriptorProto(name="archscore_server/serialized.proto", package="archscore_server")
    field = file.message_type.add(name="Response").field.add(name=original.name, number=original.number)
    field.type, field.label = _Field.TYPE_BYTES, _Field.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("archscore_server.Response"))


_Response = _twin()
