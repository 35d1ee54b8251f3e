"""Where the command line takes encodings from: its arguments, a file, or stdin."""

from __future__ import annotations

import io
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from archscore.errors import UsageError

STDIN: Final = "-"


class Source:
    """Encodings, read as they are asked for. A context manager, and an iterable within."""

    def __init__(self, encodings: list[str], file: str | None) -> None:
        """Opens the file.

        Args:
            encodings: taken as they are, if there is no file.
            file: path of a file with one encoding a line, or "-" for stdin.

        Raises:
            UsageError: the file cannot be read.
        """
        self._encodings = encodings
        self._file = file
        self._text: io.TextIOWrapper | None = None
        if file is None:
            return
        if file == STDIN and sys.stdin is None:  # It was closed before we started.
            raise UsageError(f"cannot read {file}: stdin is closed")
        try:
            stream = sys.stdin.buffer if file == STDIN else Path(file).open("rb")  # noqa: SIM115 -- see __exit__
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {file}: {_cause(error)}") from None
        # Bytes that are not UTF-8 become lone surrogates: the client fails that one architecture and says where.
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n")

    def __enter__(self) -> Self:
        """The source itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file, if it is ours."""
        if self._text is not None:
            stream = self._text.detach()
            if self._file != STDIN:
                stream.close()

    def __iter__(self) -> Iterator[str]:
        """The encodings in order; lines that are blank are skipped."""
        return iter(self._encodings) if self._text is None else self._lines(self._text)

    def count(self) -> int | None:
        """How many encodings there are, where that can be found out beforehand."""
        if self._file is None:
            return len(self._encodings)
        path = Path(self._file)
        if self._file == STDIN or not path.is_file():
            return None
        with path.open("rb") as stream:
            return sum(bool(line.strip()) for line in stream)

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        try:
            for line in text:
                if line.strip(string.whitespace):
                    yield line.rstrip("\r\n")
        except OSError as error:
            raise UsageError(f"cannot read {self._file}: {_cause(error)}") from None


def _cause(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
