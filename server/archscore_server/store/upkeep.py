"""What the command line does to a store file: look at it, write it out, prune it. Servers may use it meanwhile."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from archscore_server.engine import proxies
from archscore_server.store._context import major_minor
from archscore_server.store._database import count, remove
from archscore_server.store._file import connect, transaction

#: How long to wait while a server writes.
_BUSY_SECONDS = 10.0
#: Scores removed in one transaction: a server waits for it no longer than its own second.
_SLICE = 5_000
#: Pages given back to the file system in one transaction, likewise.
_PAGES = 5_000

#: The columns of an export.
COLUMNS = (
    "space",
    "architecture",
    "proxy",
    "proxy_version",
    "outcome",
    "value",
    "standard_error",
    "config",
    "minibatch_sha256",
    "device_kind",
    "torch_version",
    "archscore_version",
    "used",
)

_ROWS = """
    SELECT space, encoding, proxy, proxy_version, outcome, value, standard_error, config, minibatch_sha256, device_kind,
        torch_version, archscore_version, used
    FROM scores
    JOIN architectures ON architectures.id = architecture
    JOIN contexts ON contexts.id = context
    ORDER BY architecture, context, proxy, proxy_version
"""
_GROUPS = """
    SELECT space, proxy, proxy_version, outcome, count(*)
    FROM scores JOIN architectures ON architectures.id = architecture
    GROUP BY space, proxy, proxy_version, outcome
    ORDER BY space, proxy, proxy_version, outcome
"""
_SELECT = """
    CREATE TEMP TABLE doomed AS
    SELECT architecture, context, proxy, proxy_version FROM scores JOIN contexts ON contexts.id = context
    WHERE {} ORDER BY used DESC LIMIT -1 OFFSET ?
"""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store holds.

    Attributes:
        file_bytes: size of the file, and of the log beside it.
        scores: how many scores.
        architectures: how many architectures they are of.
        contexts: how many combinations of config, minibatch, device and torch.
        groups: space, proxy, its version, outcome and how many scores have them.
        oldest_use: unix seconds; None if there are no scores.
        newest_use: likewise.
    """

    file_bytes: int
    scores: int
    architectures: int
    contexts: int
    groups: list[tuple[str, str, int, str, int]]
    oldest_use: int | None
    newest_use: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which scores to prune: those that every condition holds for that is set.

    Attributes:
        unused_since: not used since then, in unix seconds.
        proxies: of one of these proxies.
        other_versions: of another version of a proxy, or of torch, than is installed here.
        keep: not among so many of the others' most recently used.
    """

    unused_since: float | None = None
    proxies: tuple[str, ...] = ()
    other_versions: bool = False
    keep: int | None = None


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Opens a store that is there, read-only.

    Raises:
        NotAStoreError: it is something else.
        sqlite3.Error: it cannot be opened.
    """
    return connect(path, "ro", busy_seconds=_BUSY_SECONDS)


def open_for_pruning(path: Path) -> sqlite3.Connection:
    """Opens a store that is there.

    Raises:
        NotAStoreError: it is something else.
        sqlite3.Error: it cannot be opened.
    """
    return connect(path, "rw", busy_seconds=_BUSY_SECONDS)


def stats(connection: sqlite3.Connection, path: Path) -> Stats:
    """What a store holds; reads all of it."""
    with transaction(connection, "BEGIN"):
        [architectures] = connection.execute("SELECT count(*) FROM architectures").fetchone()
        [contexts] = connection.execute("SELECT count(*) FROM contexts").fetchone()
        oldest, newest = connection.execute("SELECT min(used), max(used) FROM scores").fetchone()
        return Stats(
            file_bytes=sum(file.stat().st_size for file in (path, _log(path)) if file.exists()),
            scores=count(connection),
            architectures=architectures,
            contexts=contexts,
            groups=connection.execute(_GROUPS).fetchall(),
            oldest_use=oldest,
            newest_use=newest,
        )


def rows(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """All scores as of now, with `COLUMNS`, one at a time."""
    yield from connection.execute(_ROWS)


def json_line(row: tuple[Any, ...]) -> str:
    """A row as a JSON object: the config as an object, infinities as in the proto3 JSON mapping."""
    fields = dict(zip(COLUMNS, row, strict=True))
    fields["config"] = json.loads(fields["config"])
    for name in ("value", "standard_error"):
        if fields[name] in (float("inf"), float("-inf")):
            fields[name] = "Infinity" if fields[name] > 0 else "-Infinity"
    return json.dumps(fields, allow_nan=False)


def prune(connection: sqlite3.Connection, selection: Selection) -> tuple[int, int]:
    """Removes scores, gives their space back to the file system, and says how many scores went and how many are left.

    Raises:
        sqlite3.Error: not all of them could be removed.
    """
    # The keys are noted first, so that the scores are searched once however many slices there are.
    condition, values = _condition(selection)
    connection.execute(_SELECT.format(condition), (*values, selection.keep or 0))
    removed = 0
    last = 0
    while keys := connection.execute(
        "SELECT architecture, context, proxy, proxy_version, rowid FROM doomed WHERE rowid > ? ORDER BY rowid LIMIT ?",
        (last, _SLICE),
    ).fetchall():
        last = keys[-1][-1]
        with transaction(connection):
            removed += remove(connection, [key[:-1] for key in keys])
    connection.execute("DROP TABLE doomed")
    _shrink(connection)
    return removed, count(connection)


def _condition(selection: Selection) -> tuple[str, list[Any]]:
    conditions = ["TRUE"]
    values: list[Any] = []
    if selection.unused_since is not None:
        conditions.append("used < ?")
        values.append(selection.unused_since)
    if selection.proxies:
        conditions.append(f"proxy IN ({','.join('?' * len(selection.proxies))})")
        values.extend(selection.proxies)
    if selection.other_versions:
        # A proxy that is not installed here may well be installed where the server runs.
        outdated = ["torch_version <> ?"]
        values.append(major_minor(version("torch")))
        for name in proxies.names():
            outdated.append("(proxy = ? AND proxy_version <> ?)")
            values.extend((name, proxies.get(name).version))
        conditions.append(f"({' OR '.join(outdated)})")
    return " AND ".join(conditions), values


def _shrink(connection: sqlite3.Connection) -> None:
    while connection.execute("PRAGMA freelist_count").fetchone() != (0,):
        connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
    # The file itself shrinks when the log is merged into it; a server that reads may put that off.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
