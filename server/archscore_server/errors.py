"""Errors as google.rpc statuses: what clients are told, and nothing of what goes on inside.

A status travels in a trailer that peers may refuse beyond 8 KiB, so everything here is short: input is quoted clipped
and in ASCII (which also keeps line breaks out of logs), and only the first violations of a request are reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "archscore"

_MAX_QUOTED = 60
_MAX_VIOLATIONS = 20
_MAX_VIOLATION_BYTES = 3_000
_MAX_MESSAGE = 500
#: What the limits on one architecture are about.
_MEASURES = {
    "max_encoding_length": "its encoding has {:,} characters",
    "max_parameters": "its network has {:,} parameters",
    "max_flops": "its network takes {:,} multiply-accumulates an image",
    "max_layers": "its network has {:,} layers",
    "max_bytes": "evaluating its network takes {:,} bytes of memory",
    "max_work": "evaluating its network takes about {:,} multiply-accumulates",
}
#: Seconds after which a server that starts or stops, or its successor, may be asked again.
_UNAVAILABLE_RETRY_AFTER = 1.0
#: Names a client how long to wait in words of gRPC's own retry policy.
_PUSHBACK_TRAILER = "grpc-retry-pushback-ms"


class RequestError(Exception):
    """Ends an RPC with a status.

    Attributes:
        status: what the client is told.
        retry_after: seconds after which the client may try again, where that makes sense.
    """

    def __init__(self, status: status_pb2.Status) -> None:
        """Takes the status; where it has RetryInfo, gRPC's own retries are told as much in a trailer."""
        super().__init__(status.message)
        self.status = status
        self.retry_after = _retry_after(status)

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        """Metadata that goes with the status."""
        if self.retry_after is None:
            return ()
        return ((_PUSHBACK_TRAILER, str(math.ceil(self.retry_after * 1000))),)


class Violations:
    """The faults found in a request so far: all are reported at once."""

    def __init__(self) -> None:
        """Starts without any."""
        self._found: list[tuple[str, str]] = []

    def add(self, field: str, description: str) -> None:
        """Notes a fault.

        Args:
            field: path of the field in the request message, as in `config.batch_size` or `architectures[3].space`.
            description: what is wrong with it.
        """
        self._found.append((field, description))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._found)

    @property
    def full(self) -> bool:
        """Whether there are as many as will be reported."""
        return len(self._found) >= _MAX_VIOLATIONS

    def raise_if_any(self) -> None:
        """Ends the request if there are any.

        Raises:
            RequestError: INVALID_ARGUMENT with BadRequest.
        """
        if self._found:
            raise RequestError(invalid_argument(self._found))


def quote(text: str) -> str:
    """Input as it may appear in errors and logs: in quotes, clipped, ASCII, on one line."""
    return ascii(text) if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]!a}..."


def status(code: int, message: str, *details: Message) -> status_pb2.Status:
    """A status of code `google.rpc.Code` with details."""
    result = status_pb2.Status(code=code, message=message)
    for detail in details:
        result.details.add().Pack(detail)
    return result


def invalid_argument(violations: list[tuple[str, str]]) -> status_pb2.Status:
    """INVALID_ARGUMENT for (field, description) pairs; those that would make the status too large are left out."""
    reported = error_details_pb2.BadRequest()
    for field, description in violations[:_MAX_VIOLATIONS]:
        reported.field_violations.add(field=field, description=description)
        if reported.ByteSize() > _MAX_VIOLATION_BYTES and len(reported.field_violations) > 1:
            del reported.field_violations[-1]
            break
    # A message that no field is to blame for (undecodable bytes) has the empty path.
    message = "; ".join(f"{field}: {description}" if field else description for field, description in violations[:3])
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 3] + "..."
    if len(violations) > 3:
        message += f" (and {len(violations) - 3} more)"
    return status(code_pb2.INVALID_ARGUMENT, message, reported)


def undecodable() -> status_pb2.Status:
    """The bytes of the request are not a message of the method's request type."""
    return invalid_argument([("", "the request cannot be decoded as a message of the method's request type")])


def dataset_not_found(name: str, file: str) -> RequestError:
    """The dataset is known, its files are not here."""
    message = f"config.dataset: {quote(name)} is not at hand: looked for {quote(file)} in the data directory"
    reason = _reason("DATASET_NOT_FOUND", {"dataset": name, "file": file})
    return RequestError(status(code_pb2.FAILED_PRECONDITION, message, reason))


def dataset_unusable(name: str, why: str) -> RequestError:
    """The files of the dataset are here, but broken.

    Args:
        name: the dataset.
        why: what is wrong with them, short and in ASCII.
    """
    message = f"config.dataset: {quote(name)} cannot be used: {why}"
    reason = _reason("DATASET_UNUSABLE", {"dataset": name, "why": why})
    return RequestError(status(code_pb2.FAILED_PRECONDITION, message, reason))


def precision_unavailable(precision: str) -> RequestError:
    """The devices of this server do not have the precision, which is known.

    Args:
        precision: as the contract names it.
    """
    message = f"config.precision: {precision} is not to be had: not all devices of this server are GPUs that have it"
    return RequestError(
        status(code_pb2.FAILED_PRECONDITION, message, _reason("PRECISION_UNAVAILABLE", {"precision": precision}))
    )


def queue_full(retry_after: float) -> RequestError:
    """The queue cannot take the request."""
    result = status(
        code_pb2.RESOURCE_EXHAUSTED,
        f"the queue is full: try again in {retry_after:.3g} s",
        _reason("QUEUE_FULL"),
        _retry(retry_after),
    )
    return RequestError(result)


def client_full(retry_after: float, most: int) -> RequestError:
    """The client has as many architectures in flight as it may, or would with the request."""
    result = status(
        code_pb2.RESOURCE_EXHAUSTED,
        f"a client may have {most:,} architectures in flight at this server: try again in {retry_after:.3g} s",
        _reason("QUEUE_FULL", {"scope": "client", "limit": str(most)}),
        _retry(retry_after),
    )
    return RequestError(result)


def starting() -> RequestError:
    """The workers are not warm yet."""
    return _unavailable("STARTING", "the server is starting: its workers are not ready")


def draining() -> RequestError:
    """The server stops; another one, or this one restarted, may take the request."""
    return _unavailable("DRAINING", "the server is stopping")


def deadline_exceeded() -> status_pb2.Status:
    """The deadline of the request passed before the architecture was scored."""
    return status(code_pb2.DEADLINE_EXCEEDED, "the deadline passed before this architecture was scored")


def architecture_too_large(limit: str, value: int, most: int) -> status_pb2.Status:
    """The architecture is over a limit of the server.

    Args:
        limit: name of the field of Limits; one of `_MEASURES`.
        value: what the architecture has.
        most: what the server takes.
    """
    return status(
        code_pb2.RESOURCE_EXHAUSTED,
        f"the architecture is too large: {_MEASURES[limit].format(value)}, and this server takes {most:,} at most",
        _reason("ARCHITECTURE_TOO_LARGE", {"limit": limit, "value": str(value), "most": str(most)}),
    )


def architecture_failed(why: str) -> status_pb2.Status:
    """This architecture cannot be evaluated.

    Args:
        why: what a client may know of the reason.
    """
    return status(code_pb2.INTERNAL, why, _reason("ARCHITECTURE_FAILED"))


def internal(request_id: str) -> status_pb2.Status:
    """A fault of the server; the id finds it in the server's log."""
    return status(
        code_pb2.INTERNAL,
        f"internal error; the server's log has it under request id {request_id}",
        _reason("INTERNAL", {"request_id": request_id}),
    )


def _unavailable(reason: str, message: str) -> RequestError:
    result = status(code_pb2.UNAVAILABLE, message, _reason(reason), _retry(_UNAVAILABLE_RETRY_AFTER))
    return RequestError(result)


def _reason(reason: str, metadata: Mapping[str, str] | None = None) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)


def _retry(seconds: float) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(round(seconds * 1e9))
    return info


def _retry_after(status: status_pb2.Status) -> float | None:
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return float(info.retry_delay.ToNanoseconds() / 1e9)
    return None
