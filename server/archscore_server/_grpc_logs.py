"""What gRPC logs of its peers' faults: with a traceback, at level ERROR, and kilobytes of their bytes."""

from __future__ import annotations

import logging

#: Bytes of metadata that are no UTF-8, and an answer that finds its peer gone.
_PEERS_FAULTS = ("Invalid encoding on", "ExecuteBatchError raised in core by servicer method")


def drop_peers_faults() -> None:
    """Keeps these out of the log: no peer is to fill it, or to look like a fault of the server."""
    # Adding a filter twice adds it once.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_PEERS_FAULTS)
