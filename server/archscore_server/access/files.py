"""Files that are read again when they change."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

_logger = logging.getLogger(__name__)

#: Differs when a file has changed, in content or permissions; None where there is no file to be seen.
Version = tuple[int, int, int, int] | None


def version(path: Path) -> Version:
    """Looks at a file, without reading it."""
    try:
        found = os.stat(path)  # noqa: PTH116 -- on every call, and twice as fast
    except OSError:
        return None
    # A change of mode shows in the time of the last change of status alone.
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def warn_if_others_can_read(path: Path) -> None:
    """Logs a warning if everybody on this machine can read a file that is nobody else's business."""
    if path.stat().st_mode & stat.S_IROTH:
        _logger.warning("%s can be read by everybody on this machine: chmod o-r it", path)
