"""The tokens in force: those of a file, which is read again when it has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from archscore_server.access import files, token_file, tokens
from archscore_server.access.errors import AccessError
from archscore_server.access.tokens import Record

_logger = logging.getLogger(__name__)


class TokenWatch:
    """Knows the tokens of a file as it is now.

    While the file cannot be used (gone, unreadable, malformed) the tokens that it had before stay in force, so that a
    slip of an editor shuts nobody out. To revoke all tokens, empty the file.
    """

    def __init__(self, path: Path, on_usable: Callable[[bool], None]) -> None:
        """Takes the file, which `start` reads.

        Args:
            path: the file.
            on_usable: told whether the file could be used, whenever it was read.
        """
        self._path = path
        self._on_usable = on_usable
        self._watch = files.Watch(path)
        self._records: dict[str, Record] = {}

    def start(self) -> None:
        """Reads the file for the first time.

        Raises:
            AccessError: it cannot be used.
        """
        self._watch.due()  # what has changed until now is read here
        self._read()
        files.warn_if_others_can_read(self._path)
        if not self._records:
            _logger.warning("%s has no tokens: nobody may call", self._path)

    def owner(self, token: str) -> str | None:
        """The name of a token that is in force; None for any other text."""
        if self._watch.due():
            self._read_again()
        return tokens.owner(token, self._records)

    def _read(self) -> None:
        self._records = token_file.read(self._path)
        self._on_usable(True)

    def _read_again(self) -> None:
        try:
            self._read()
        except AccessError as error:
            self._on_usable(False)
            if self._watch.failed():
                _logger.error("%s: the tokens of before stay in force", error)  # noqa: TRY400 -- no fault of the server
        else:
            _logger.info("%s: %d tokens are in force", self._path, len(self._records))
