"""Files that say who may call: read again when they change, and never waited for."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from archscore_server.access.errors import AccessError

_logger = logging.getLogger(__name__)

#: Seconds after which files are tried again that could not be used, though they have not changed: the fault may have
#: been elsewhere, as where there are no descriptors left.
_RETRY_SECONDS = 1.0

#: Bytes of such a file, at most: some ten thousand tokens, which take half a second of the event loop to read.
_MAX_BYTES = 4 * 2**20

#: Differs when a file has changed, in content or permissions; None where there is no file to be seen.
Version = tuple[int, int, int, int, int] | None


class Watch:
    """Says when files are to be read again."""

    def __init__(self, *paths: Path, now: Callable[[], float] = time.monotonic) -> None:
        """Takes the files, which are to be read after this for the first time, and the clock, in seconds."""
        self._paths = paths
        self._now = now
        self._versions = self._look()
        self._failed: list[Version] = []
        self._retry_at: float | None = None

    def due(self) -> bool:
        """Whether the files are to be read now: they have changed, or failed a while ago.

        They are looked at before they are read, so that what changes in between is noticed the next time.
        """
        versions = self._look()
        if versions == self._versions and (self._retry_at is None or self._now() < self._retry_at):
            return False
        self._versions = versions
        self._retry_at = None
        return True

    def failed(self) -> bool:
        """The files could not be used. Says whether this is news: they had changed since they failed before."""
        self._retry_at = self._now() + _RETRY_SECONDS
        news = self._versions != self._failed
        self._failed = self._versions
        return news

    def _look(self) -> list[Version]:
        return [version(path) for path in self._paths]


def version(path: Path) -> Version:
    """Looks at a file, without reading it."""
    try:
        found = os.stat(path)  # noqa: PTH116 -- on every call, and twice as fast
    except OSError:
        return None
    return found.st_ino, found.st_mode, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def read(path: Path) -> bytes:
    """Reads a file that is one: to open a pipe would wait for its other end, and the whole server with it.

    Raises:
        AccessError: it cannot be read, is no file, or a large one.
    """
    try:
        # Without O_NONBLOCK it is the opening that waits.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise AccessError(f"{path} cannot be read: it is no file")
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise AccessError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise AccessError(f"{path} cannot be read: it has more than {_MAX_BYTES:,} bytes")
    return content


def warn_if_others_can_read(path: Path) -> None:
    """Logs a warning if everybody on this machine can read a file that is nobody else's business."""
    if path.stat().st_mode & stat.S_IROTH:
        _logger.warning("%s can be read by everybody on this machine: chmod o-r it", path)
