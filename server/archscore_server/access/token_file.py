"""The file of tokens: one record a line; empty lines and lines that start with # are left alone.

Changes replace the file as a whole, so that who reads it sees it before or after, under a lock on its directory, so
that two at once lose nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from archscore_server.access import files, tokens
from archscore_server.access.errors import AccessError
from archscore_server.access.tokens import Record


def read(path: Path) -> dict[str, Record]:
    """The records of a file by name, in its order.

    Raises:
        AccessError: it cannot be read, or a line of it is wrong.
    """
    return _records(path, _text(path))


def add(path: Path, name: str) -> str:
    """Adds a token to a file, which is made if it is not there, and returns it. It cannot be had again.

    Args:
        path: the file.
        name: of the token, one that is valid.

    Raises:
        AccessError: the name is taken, or the file is malformed, or cannot be read or written.
    """
    with _locked(path) as file:
        text = _text(file) if file.exists() else ""
        if name in _records(file, text):
            raise AccessError(f"{path} has a token {name} already: revoke it first, or take another name")
        token, record = tokens.generate(name)
        separator = "\n" if text and not text.endswith("\n") else ""
        _replace(file, f"{text}{separator}{record.format()}\n")
    return token


def revoke(path: Path, name: str) -> None:
    """Removes a token from a file.

    Raises:
        AccessError: there is no such token, or the file is malformed, or cannot be read or written.
    """
    with _locked(path) as file:
        text = _text(file)
        if name not in _records(file, text):
            raise AccessError(f"{path} has no token {name}")
        _replace(file, "".join(line for line in text.splitlines(keepends=True) if line.split()[:1] != [name]))


def _text(path: Path) -> str:
    try:
        return files.read(path).decode("ascii")
    except UnicodeDecodeError as error:
        raise AccessError(f"{path} is no token file: it has bytes that are not ASCII") from error


def _records(path: Path, text: str) -> dict[str, Record]:
    records: dict[str, Record] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            record = tokens.parse(line)
        except ValueError as error:
            raise AccessError(f"{path} is no token file: line {number}: {error}") from error
        if record.name in records:
            raise AccessError(f"{path}: line {number}: there are two tokens {record.name}")
        records[record.name] = record
    return records


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Keeps other writers out; gives the file itself where the path is a link."""
    file = path.resolve()
    try:
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise AccessError(f"{file.parent} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(directory)


def _replace(file: Path, text: str) -> None:
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
        try:
            with open(descriptor, "w", encoding="ascii") as temporary:  # noqa: PTH123 -- of a descriptor
                temporary.write(text)
                temporary.flush()
                if file.exists() and (owner := file.stat()).st_uid != os.geteuid():
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)  # the server's, when root adds a token
                os.fsync(descriptor)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise AccessError(f"{file} cannot be written: {error.strerror}") from error
