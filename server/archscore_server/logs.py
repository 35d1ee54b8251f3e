"""Logs: lines on stderr, each with the id of the request that it is about."""

from __future__ import annotations

import logging
from contextvars import ContextVar

#: Id of the request that is being served; "-" outside of one.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")


def configure(level: str) -> None:
    """Sends the log to stderr.

    Args:
        level: least level that is logged, as in `logging`.
    """
    handler = logging.StreamHandler()
    handler.addFilter(_add_request_id)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True
