"""Arguments of the client to messages; whatever cannot be a message is a UsageError."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from google.protobuf import json_format

from archscore import spaces
from archscore._retry import MAX_SECONDS
from archscore.errors import ArchitectureError, FieldViolation, UsageError
from archscore.v1 import scoring_pb2

DEFAULT_SPACE: Final = "nasbench201"
"""The search space of encodings that come without one."""

Architecture: TypeAlias = str | spaces.Architecture
"""An encoding, or an architecture of `archscore.spaces`."""

Config: TypeAlias = scoring_pb2.EvaluationConfig | Mapping[str, Any]
"""A message, or its proto3 JSON mapping."""

Priority: TypeAlias = Literal["bulk", "default", "interactive"]

_LONGEST_CLIENT_ID: Final = 64

_PRIORITIES: Final = {
    None: scoring_pb2.PRIORITY_UNSPECIFIED,
    "bulk": scoring_pb2.PRIORITY_BULK,
    "default": scoring_pb2.PRIORITY_DEFAULT,
    "interactive": scoring_pb2.PRIORITY_INTERACTIVE,
}


def architecture_message(architecture: Architecture, space: str | None) -> scoring_pb2.Architecture:
    """The message for an architecture by itself.

    Args:
        architecture: an encoding or an architecture value.
        space: its search space. None leaves it to the value; an encoding then is of `DEFAULT_SPACE`.

    Raises:
        ArchitectureError: the encoding is not Unicode text, so that it cannot even be sent.
        UsageError: it is no architecture, or one of another space.
    """
    space, encoding = architecture_fields(architecture, space)
    return scoring_pb2.Architecture(space=space, encoding=encoding)


def architecture_fields(architecture: Architecture, space: str | None, position: int | None = None) -> tuple[str, str]:
    """Search space and encoding of an architecture, as they are sent.

    Args:
        architecture: an encoding or an architecture value.
        space: its search space, as for `architecture_message`.
        position: where it is in a list, for errors; None if it is by itself.

    Raises:
        ArchitectureError: the encoding is not Unicode text, so that it cannot even be sent.
        UsageError: it is no architecture, or one of another space.
    """
    if not isinstance(architecture, str):
        own_space = _space_of_type().get(type(architecture))
        if own_space is None:
            raise UsageError(f"an architecture is a string or a value of archscore.spaces, not {architecture!r}")
        if space not in (None, own_space):
            raise UsageError(f"space is {space!r}, but {architecture!r} is of {own_space!r}")
        return own_space, architecture.format()
    space = DEFAULT_SPACE if space is None else text("space", space)
    if not architecture.isascii():
        try:
            architecture.encode()
        except UnicodeEncodeError as error:
            path = "architecture" if position is None else f"architectures[{position}]"
            fault = f"at position {error.start}: expected Unicode text"
            violation = FieldViolation(f"{path}.encoding", fault)
            raise ArchitectureError(
                f"{violation.field}: {fault}", code="INVALID_ARGUMENT", field_violations=[violation]
            ) from None
    return space, architecture


def proxy_names(proxies: str | Iterable[str]) -> list[str]:
    """The names of proxies: one, or several."""
    return [text("proxies", name) for name in ([proxies] if isinstance(proxies, str) else proxies)]


def config_message(config: Config | None) -> scoring_pb2.EvaluationConfig | None:
    """The message for a config.

    Raises:
        UsageError: a mapping has a field that there is none of, or a value that does not fit.
    """
    if config is None or isinstance(config, scoring_pb2.EvaluationConfig):
        return config
    if not isinstance(config, Mapping):
        raise UsageError(f"config: expected an object, not {config!r}")
    message = scoring_pb2.EvaluationConfig()
    try:
        # As bytes, because the parser trips over what cannot be encoded.
        json_format.Parse(json.dumps(dict(config), ensure_ascii=False).encode(), message)
    except (json_format.ParseError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"config: {' '.join(str(error).split())}") from None
    return message


def priority_value(priority: Priority | None) -> scoring_pb2.Priority.ValueType:
    """The enum value for a priority.

    Raises:
        UsageError: there is no such priority.
    """
    if priority not in _PRIORITIES:
        raise UsageError(f"priority: expected one of bulk, default, interactive, not {priority!r}")
    return _PRIORITIES[priority]


def seconds(name: str, value: float) -> float:
    """The value, which must be positive and at most `MAX_SECONDS`.

    Raises:
        UsageError: it is not.
    """
    if not 0 < value <= MAX_SECONDS:
        raise UsageError(f"{name} must be positive and at most {MAX_SECONDS} seconds, not {value!r}")
    return value


def client_id(value: str) -> str:
    """The value, which must be fit to name a client.

    Raises:
        UsageError: it is not.
    """
    text("client_id", value)
    # Spaces at either end do not survive the way to the server.
    fits = value.isascii() and value.isprintable() and value == value.strip()
    if not fits or not 1 <= len(value) <= _LONGEST_CLIENT_ID:
        raise UsageError(
            f"client_id: expected 1 to {_LONGEST_CLIENT_ID} printable ASCII characters without spaces around them, "
            f"not {value!r}"
        )
    return value


def text(name: str, value: str) -> str:
    """The value, which must be text that can be sent.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name}: expected a string, not {value!r}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name}: not Unicode text: {value!r}") from None
    return value


@functools.cache
def _space_of_type() -> Mapping[type, str]:
    """The search space that each type of architecture values belongs to."""
    return {type(space.parse(space.example)): name for name, space in spaces.SPACES.items()}
