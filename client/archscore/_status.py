"""google.rpc.Status to exceptions and back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from archscore.errors import (
    ArchitectureError,
    ArchscoreError,
    AuthenticationError,
    DatasetNotFoundError,
    DeadlineExceededError,
    FieldViolation,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
)

DOMAIN: Final = "archscore"

_Detail = TypeVar("_Detail", bound=Message)
_BY_REASON: Final[dict[str, type[ArchscoreError]]] = {
    "QUEUE_FULL": QueueFullError,
    "DATASET_NOT_FOUND": DatasetNotFoundError,
    "ARCHITECTURE_TOO_LARGE": ArchitectureError,
    "ARCHITECTURE_FAILED": ArchitectureError,
}
_BY_CODE: Final[dict[str, type[ArchscoreError]]] = {
    "UNAVAILABLE": UnavailableError,
    # We never report the calls that we cancel ourselves: it was a server that stopped.
    "CANCELLED": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "UNAUTHENTICATED": AuthenticationError,
    "PERMISSION_DENIED": AuthenticationError,
}
_CODE_NAMES: Final[dict[int, str]] = {code.value[0]: code.name for code in grpc.StatusCode}
_CODE_NUMBERS: Final = {name: number for number, name in _CODE_NAMES.items()}
_PUSHBACK_TRAILER: Final = "grpc-retry-pushback-ms"
# What gRPC says of a server that takes a connection and ends it before the first call.
_CLOSED_AT_ONCE: Final = re.compile(r"failed to connect to all addresses; .*Socket closed$")
_ENCODING_FIELD: Final = re.compile(r"(^|\.)encoding$")
# A message is made of "field: description" for some fields, separated by semicolons.
_PLACE: Final = re.compile(r"(?:^|(?<=; ))architectures\[(\d+)\](?=[.:]|$)")


def from_rpc(rpc_error: grpc.RpcError, target: str) -> ArchscoreError:
    """The exception for a failed call to `target`."""
    # Both stacks raise an RpcError that is also a grpc.Call, or looks like one; the type does not say so.
    call: grpc.Call = rpc_error  # type: ignore[assignment]
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):  # Details that contradict the call's own status, or that cannot be read.
        status = None
    pushback = _pushback(call)
    if status is not None:
        return from_status(status, pushback=pushback)
    # Without the details that a server of ours sends, these are the words of this side.
    error = from_status(Status(code=call.code().value[0], message=call.details() or ""), pushback=pushback)
    error.status = None
    if isinstance(error, (UnavailableError, DeadlineExceededError)):
        error.message = f"no answer from {target}: {error.message}"
        if _CLOSED_AT_ONCE.search(error.message):
            error.message += " (does the server expect TLS, or a client certificate?)"
    return error


def from_status(status: Status, *, of_item: bool = False, pushback: float | None = None) -> ArchscoreError:
    """The exception for a status.

    Args:
        status: what the server sent.
        of_item: whether it is about one architecture of many, rather than about a request.
        pushback: seconds that came beside it, for clients that do not read its details.
    """
    code = _CODE_NAMES.get(status.code, "UNKNOWN")
    info = next((info for info in _details(status, ErrorInfo) if info.domain == DOMAIN), ErrorInfo())
    delays = [retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9 for retry in _details(status, RetryInfo)]
    violations = [
        FieldViolation(violation.field, violation.description)
        for bad_request in _details(status, BadRequest)
        for violation in bad_request.field_violations
    ]

    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(code)
    if kind is None and code == "RESOURCE_EXHAUSTED" and not info.reason and pushback is not None:
        kind = QueueFullError  # Nobody says when to send a message again that is too large.
    if kind is None and (of_item or any(_ENCODING_FIELD.search(violation.field) for violation in violations)):
        kind = ArchitectureError
    if kind is None:
        kind = InvalidRequestError if code == "INVALID_ARGUMENT" else ArchscoreError
    return kind(
        status.message,
        code=code,
        reason=info.reason,
        field_violations=violations,
        retry_after=max(0.0, *delays) if delays else pushback,
        status=status,
    )


def relocate(error: ArchscoreError, indices: Mapping[int, int]) -> None:
    """Makes an error speak of architectures by their place among all, rather than by that in a request.

    Args:
        error: is changed: message, field violations and status.
        indices: the places of architectures, by those in the request.
    """

    def moved(text: str) -> str:
        return _PLACE.sub(lambda match: f"architectures[{indices.get(int(match[1]), match[1])}]", text)

    error.message = moved(error.message)
    error.field_violations = tuple(
        FieldViolation(moved(violation.field), violation.description) for violation in error.field_violations
    )
    if error.status is None:
        return
    status = Status()
    status.CopyFrom(error.status)
    status.message = moved(status.message)
    for packed in status.details:
        for bad_request in _details(Status(details=[packed]), BadRequest):
            for violation in bad_request.field_violations:
                violation.field = moved(violation.field)
            packed.Pack(bad_request)
    error.status = status


def to_status(error: ArchscoreError) -> Status:
    """The status that the server sent, or one that says the same as an error found on this side."""
    if error.status is not None:
        return error.status
    status = Status(code=_CODE_NUMBERS[error.code or "UNKNOWN"], message=error.message)
    if error.field_violations:
        bad_request = BadRequest()
        for violation in error.field_violations:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        status.details.add().Pack(bad_request)
    return status


def _pushback(call: grpc.Call) -> float | None:
    """Seconds that the server asks to wait in the words of gRPC's own retries; infinite where it asks not to retry."""
    for key, value in call.trailing_metadata() or ():
        if key == _PUSHBACK_TRAILER:
            # Whatever is no number of milliseconds means no (gRFC A6).
            return int(value) / 1000 if re.fullmatch(r"[0-9]{1,15}", str(value)) else math.inf
    return None


def _details(status: Status, kind: type[_Detail]) -> list[_Detail]:
    """The details of one kind, without those that cannot be read."""
    found = []
    for packed in status.details:
        detail = kind()
        try:
            if packed.Unpack(detail):
                found.append(detail)
        except DecodeError:
            continue
    return found
