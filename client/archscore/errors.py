"""What can go wrong, as exceptions that carry what the server said.

Standard library only. Every error is an `ArchscoreError`; which one it is says what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing that is wrong with a request.

    Attributes:
        field: path of the field, such as `config.batch_size`.
        description: what is wrong with it.
    """

    field: str
    description: str


class ArchscoreError(Exception):
    """Anything that went wrong; by itself, an error that none of the subclasses describes.

    Attributes:
        message: what happened, for people.
        code: name of the status code, such as "INVALID_ARGUMENT"; None where the fault was found without a server.
        reason: the server's machine-readable reason, such as "QUEUE_FULL"; empty if it gave none.
        field_violations: the fields at fault.
        retry_after: seconds after which the server asks to try again; infinite where it asks not to.
        status: the google.rpc.Status that the server sent, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str = "",
        field_violations: Iterable[FieldViolation] = (),
        retry_after: float | None = None,
        status: Status | None = None,
    ) -> None:
        """Keeps what is known of the error."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.field_violations = tuple(field_violations)
        self.retry_after = retry_after
        self.status = status

    def __str__(self) -> str:
        """The message, and what is wrong with which field where the message does not say it."""
        violations = (
            f"{violation.field}: {violation.description}"
            for violation in self.field_violations
            if violation.description not in self.message
        )
        return "; ".join(filter(None, (self.message, *violations))) or self.code or type(self).__name__


class UsageError(ArchscoreError, ValueError):
    """The call makes no sense; nothing was sent."""


class NoValueError(ArchscoreError, ValueError):
    """A score was asked for its value, but its outcome has none."""


class AuthenticationError(ArchscoreError):
    """The server does not know who asks, or does not let them: no token or certificate, or not a valid one."""


class InvalidRequestError(ArchscoreError):
    """The server refuses the request as a whole: proxies, config, search space, limits."""


class DatasetNotFoundError(ArchscoreError):
    """The dataset is not in the server's data directory."""


class ArchitectureError(ArchscoreError):
    """One architecture cannot be scored: its encoding is malformed, or its network is too large or fails."""


class QueueFullError(ArchscoreError):
    """The server has too much to do to take the request."""


class UnavailableError(ArchscoreError):
    """The server cannot be reached, is starting, or stops."""


class DeadlineExceededError(ArchscoreError):
    """No answer came in time."""
