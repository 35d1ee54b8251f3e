"""The file: its schema, how it is opened, and which errors may pass."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

#: "ASCO": says that a file is ours, also to `file`.
_APPLICATION_ID = 0x4153434F
#: To be raised with every change of the schema.
SCHEMA_VERSION = 1

#: An architecture's text stands once, however many scores it has. `contexts.scores` counts, so that neither the size of
#: the store nor a context that nothing refers to takes a scan. The values have no declared type: SQLite turns a -0.0
#: in a REAL column into 0.0.
_SCHEMA = (
    """
    CREATE TABLE contexts (
        id INTEGER PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        config TEXT NOT NULL,
        minibatch_sha256 TEXT NOT NULL,
        device_kind TEXT NOT NULL,
        torch_version TEXT NOT NULL,
        scores INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE architectures (
        id INTEGER PRIMARY KEY,
        space TEXT NOT NULL,
        encoding TEXT NOT NULL,
        UNIQUE (space, encoding)
    )
    """,
    """
    CREATE TABLE scores (
        architecture INTEGER NOT NULL,
        context INTEGER NOT NULL,
        proxy TEXT NOT NULL,
        proxy_version INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        value,
        standard_error,
        archscore_version TEXT NOT NULL,
        used INTEGER NOT NULL,
        PRIMARY KEY (architecture, context, proxy, proxy_version)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX scores_by_use ON scores (used)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}

#: The log beside the file is cut back to this after a large transaction.
_MAX_IDLE_WAL_BYTES = 64 * 2**20


class NotAStoreError(Exception):
    """The file is something else, or has another version's schema. It has not been touched."""


def may_pass(error: Exception) -> bool:
    """Whether what is wrong with a file may be over later: a lock or a full disk, but not damage."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _PASSING


def connect(path: Path | None, mode: Literal["ro", "rw", "rwc"], *, busy_seconds: float) -> sqlite3.Connection:
    """Opens a store, in autocommit mode.

    Args:
        path: the file; None for a store in memory.
        mode: "ro" reads only, "rw" needs a store that is there, "rwc" makes one.
        busy_seconds: how long to wait for another process's lock.

    Raises:
        NotAStoreError: there is something else.
        sqlite3.Error: it cannot be opened.
    """
    uri = "file::memory:" if path is None else f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=busy_seconds)
    try:
        if mode == "rwc" and _is_empty(connection):
            _create(connection)
        _check(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_MAX_IDLE_WAL_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether there is nothing yet, not even of another application."""
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return not tables and _identity(connection) == (0, 0)


def _check(connection: sqlite3.Connection) -> None:
    """Refuses what is no store of this version."""
    application, version = _identity(connection)
    if application != _APPLICATION_ID:
        raise NotAStoreError("it is empty, or a database of something else")
    if version != SCHEMA_VERSION:
        raise NotAStoreError(f"it has schema {version}, this version of archscore reads {SCHEMA_VERSION}")


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _create(connection: sqlite3.Connection) -> None:
    # Both are properties of the file, and must be set before there is anything in it.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection):
        if _is_empty(connection):  # another process may have been faster
            for statement in _SCHEMA:
                connection.execute(statement)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """All or nothing."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has rolled it back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
