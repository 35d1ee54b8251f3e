"""Logs: structured, on stderr, for people where that is a terminal and as JSON lines elsewhere.

Modules log through the standard library, `logging.getLogger(__name__)`; what an RPC logs also carries what `bind` was
given. Much of what is logged came over the network, so no value gets into the output as it is: it is clipped, whatever
is not printable is escaped (line breaks, terminal sequences, marks that reverse the direction of text), and what looks
like a token is masked.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from traceback import TracebackException
from types import TracebackType
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Style = Literal["auto", "console", "json"]

#: Characters of a value, or of a line of a traceback, that are logged of its beginning and of its end.
_HEAD, _TAIL = 1_500, 500
#: Lines of a traceback that are logged of its beginning and of its end.
_HEAD_LINES, _TAIL_LINES = 30, 50

_MASK = "***"
_TOKENS: Final = re.compile(
    r"""(?ix)
    ( \bbearer\s+
    | \bauthorization\b ['"]? \s*[:=,]\s* (?:value\s*=\s*)? (?:b?['"])? (?:(?:basic|bearer)\s+)?
    )
    [^\s'",;)\]}]+
    """
)

_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Settings:
    """How a process logs; its worker processes log alike.

    Attributes:
        level: least level that is logged, as in `logging`.
        style: for people, for programs, or what suits stderr.
    """

    level: str
    style: Style


_settings: Settings | None = None


def configure(
    level: str, stream: TextIO | None = None, *, style: Style = "auto", fields: Mapping[str, object] | None = None
) -> None:
    """Sends the log of this process to a stream, and with it warnings and exceptions that nobody caught.

    Args:
        level: least level that is logged, as in `logging`.
        stream: where to; None is stderr.
        style: "console", "json", or "auto": what suits the stream.
        fields: what every line of this process carries.
    """
    global _settings  # noqa: PLW0603 -- as logging itself, it is one for the process
    _settings = Settings(level, style)
    logging.basicConfig(level=level, handlers=[handler(stream or sys.stderr, style, fields)], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def settings() -> Settings | None:
    """How this process logs, for those that it starts; None if that was not configured."""
    return _settings


def bind(**values: object) -> None:
    """Adds fields to what is logged from here on by the current task, and by those that it starts."""
    structlog.contextvars.bind_contextvars(**values)


def handler(stream: TextIO, style: Style = "auto", fields: Mapping[str, object] | None = None) -> logging.Handler:
    """A handler that writes to a stream in one of the styles; see `configure`."""
    terminal = stream.isatty()
    if style == "console" or (style == "auto" and terminal):
        rendering: list[Processor] = [
            _indent_traceback,
            structlog.dev.ConsoleRenderer(
                colors=terminal and not os.environ.get("NO_COLOR"),
                pad_event_to=0,
                timestamp_key="time",
                exception_formatter=structlog.dev.plain_traceback,
                sort_keys=False,
            ),
        ]
    else:
        rendering = [structlog.processors.JSONRenderer()]
    made = logging.StreamHandler(stream)
    made.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.contextvars.merge_contextvars],
            processors=[_Describe(fields or {}), *rendering],
        )
    )
    return made


class _Describe:
    """Makes a record into the fields of its line, all of them safe to write."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        record: logging.LogRecord = event.pop("_record")
        error = event.pop("exc_info", None)
        values = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event.pop("event"),
            **self._fields,
            **{key: value for key, value in event.items() if not key.startswith("_")},
        }
        safe: EventDict = {key: _MASK if key == "authorization" else _safe(value) for key, value in values.items()}
        if error and error[1] is not None:
            safe["exception"] = "\n".join(_clipped_lines(_lines(TracebackException(*error, compact=True))))
        return safe


def _safe(value: object) -> object:
    """A value as it may be written."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return _safe_text(value if isinstance(value, str) else str(value))


def _safe_text(text: str) -> str:
    text = _TOKENS.sub(rf"\1{_MASK}", text)
    excess = len(text) - _HEAD - _TAIL
    if excess > 0:
        text = f"{text[:_HEAD]}... ({excess} more characters) ...{text[-_TAIL:]}"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _lines(error: TracebackException) -> Iterator[str]:
    """The lines of a traceback. Where the message of an exception has several lines, they are one here."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier:
        yield from _lines(earlier)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    for frame in error.stack.format():
        yield from frame.splitlines()
    yield "".join(error.format_exception_only()).rstrip("\n")
    for part in error.exceptions or ():
        yield from (_INDENT + line for line in _lines(part))


def _clipped_lines(lines: Iterator[str]) -> list[str]:
    safe = [_safe_text(line) for line in lines]
    excess = len(safe) - _HEAD_LINES - _TAIL_LINES
    if excess > 0:
        safe[_HEAD_LINES:-_TAIL_LINES] = [f"... ({excess} more lines) ..."]
    return safe


def _indent_traceback(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Shifts a traceback to the right, so that no line of it can pass for a line of the log."""
    if "exception" in event:
        event["exception"] = "\n".join(_INDENT + line for line in event["exception"].split("\n"))
    return event


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error or kind(), trace))
