"""Logs: lines on stderr, each with the id of the request that it is about, and who asked."""

from __future__ import annotations

import logging
from contextvars import ContextVar

_BOUND: ContextVar[dict[str, str] | None] = ContextVar("bound", default=None)


def bind(**values: str) -> None:
    """Has the lines that the current task logs from now on say so: `request_id` and `client`."""
    _BOUND.set({**(_BOUND.get() or {}), **values})


def configure(level: str) -> None:
    """Sends the log to stderr.

    Args:
        level: least level that is logged, as in `logging`.
    """
    handler = logging.StreamHandler()
    handler.addFilter(_add_bound)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _add_bound(record: logging.LogRecord) -> bool:
    record.request_id = (_BOUND.get() or {}).get("request_id", "-")
    return True
