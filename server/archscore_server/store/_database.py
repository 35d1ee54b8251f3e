"""What is asked of SQLite. Blocks: it is for the store's own thread, and for the command line."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archscore._version import __version__
from archscore.spaces import Architecture
from archscore_server.engine import Outcome, Score, proxies
from archscore_server.store._backlog import Batch
from archscore_server.store._context import Context, config_json, digest, space_of
from archscore_server.store._file import connect, transaction

#: How long to wait for another process's lock.
_BUSY_SECONDS = 1.0
#: Architectures in one query: SQLite takes 999 parameters everywhere.
_CHUNK = 500

_READ = """
    SELECT architectures.encoding, proxy, proxy_version, outcome, value, standard_error, used
    FROM architectures CROSS JOIN scores ON scores.architecture = architectures.id
    WHERE scores.context = ? AND architectures.space = ? AND architectures.encoding IN ({})
"""
_INSERT = """
    INSERT INTO scores (
        outcome, value, standard_error, archscore_version, used, architecture, context, proxy, proxy_version
    )
    VALUES (?, ?, ?, ?, ?, (SELECT id FROM architectures WHERE space = ? AND encoding = ?), ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
_REPLACE = """
    UPDATE scores SET outcome = ?, value = ?, standard_error = ?, archscore_version = ?, used = ?
    WHERE architecture = (SELECT id FROM architectures WHERE space = ? AND encoding = ?)
        AND context = ? AND proxy = ? AND proxy_version = ?
"""
_NOTE_USE = """
    UPDATE scores SET used = ?1
    WHERE architecture = (SELECT id FROM architectures WHERE space = ?2 AND encoding = ?3) AND context = ?4
        AND used < ?1
"""
_DELETE = "DELETE FROM scores WHERE architecture = ? AND context = ? AND proxy = ? AND proxy_version = ?"

#: Faster than Outcome(...), which counts for large requests.
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}

Key = tuple[int, int, str, int]
Uses = Mapping[Context, Iterable[Architecture]]


@dataclass(slots=True)
class Stored:
    """What the file holds of an architecture in a context.

    Attributes:
        scores: by proxy, of the versions that are installed.
        used: when the least recently used of them was used, in unix seconds.
    """

    scores: dict[str, Score]
    used: int


class Database:
    """The scores in SQLite."""

    def __init__(self, path: Path | None) -> None:
        """Not open yet.

        Args:
            path: the file; None for one in memory.
        """
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def open(self) -> int:
        """Opens it, also again after a failure, and says how many scores it holds.

        Raises:
            NotAStoreError: the file is something else.
            sqlite3.Error: it cannot be opened.
        """
        if self._connection is None or self._path is not None:
            self.close()
            self._connection = connect(self._path, "rwc", busy_seconds=_BUSY_SECONDS)
        return count(self._connection)

    def close(self) -> None:
        """Closes it, if it is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def interrupt(self) -> None:
        """Ends what another thread is waiting for in here."""
        if self._connection is not None:
            self._connection.interrupt()

    def read(self, context: Context, architectures: Sequence[Architecture]) -> dict[Architecture, Stored]:
        """What is stored of architectures, by the versions of the proxies that are installed.

        Raises:
            sqlite3.Error: it cannot be read.
        """
        versions = _versions()
        spaces: dict[str, dict[str, Architecture]] = {}
        for architecture in architectures:
            spaces.setdefault(space_of(architecture), {})[architecture.format()] = architecture
        connection = self._connected()
        stored: dict[Architecture, Stored] = {}
        with transaction(connection, "BEGIN"):
            row = connection.execute("SELECT id FROM contexts WHERE digest = ?", (digest(context),)).fetchone()
            if row is None:
                return {}
            for space, encodings in spaces.items():
                texts = list(encodings)
                for start in range(0, len(texts), _CHUNK):
                    chunk = texts[start : start + _CHUNK]
                    query = _READ.format(",".join("?" * len(chunk)))
                    for encoding, proxy, version, outcome, value, error, used in connection.execute(
                        query, (row[0], space, *chunk)
                    ):
                        if versions.get(proxy) == version:
                            architecture = encodings[encoding]
                            found = stored.get(architecture)
                            if found is None:
                                found = stored[architecture] = Stored({}, used)
                            found.scores[proxy] = Score(_OUTCOMES[outcome], value, error)
                            found.used = min(found.used, used)
        return stored

    def write(self, batch: Batch, uses: Uses, now: int) -> int:
        """Writes scores and notes uses, in one transaction, and says how many scores there are then.

        Args:
            batch: scores that are finite or NON_FINITE.
            uses: architectures that were asked for.
            now: unix seconds.

        Raises:
            sqlite3.Error: nothing has been written.
        """
        connection = self._connected()
        with transaction(connection):
            for context, architectures in batch.items():
                self._write_context(connection, context, architectures, now)
            for context, used in uses.items():
                row = connection.execute("SELECT id FROM contexts WHERE digest = ?", (digest(context),)).fetchone()
                if row is not None:
                    connection.executemany(
                        _NOTE_USE,
                        [(now, space_of(architecture), architecture.format(), row[0]) for architecture in used],
                    )
        return count(connection)

    def evict(self, limit: int) -> int:
        """Removes so many of the least recently used scores, and says how many there are then.

        Raises:
            sqlite3.Error: nothing has been removed.
        """
        connection = self._connected()
        with transaction(connection):
            victims = connection.execute(
                "SELECT architecture, context, proxy, proxy_version FROM scores ORDER BY used LIMIT ?", (limit,)
            ).fetchall()
            remove(connection, victims)
            if not victims:  # whatever the contexts say, nothing refers to them
                connection.execute("DELETE FROM contexts")
        return count(connection)

    def _write_context(
        self,
        connection: sqlite3.Connection,
        context: Context,
        architectures: Mapping[Architecture, Mapping[str, Score]],
        now: int,
    ) -> None:
        # Ids are looked up in every transaction: another process may have removed a row and given its id away.
        connection.execute(
            "INSERT INTO contexts (digest, config, minibatch_sha256, device_kind, torch_version)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                digest(context),
                config_json(context.config),
                context.minibatch_sha256,
                context.device_kind,
                context.torch_version,
            ),
        )
        [id_] = connection.execute("SELECT id FROM contexts WHERE digest = ?", (digest(context),)).fetchone()
        texts = [(space_of(architecture), architecture.format()) for architecture in architectures]
        connection.executemany(
            "INSERT INTO architectures (space, encoding) VALUES (?, ?) ON CONFLICT DO NOTHING", texts
        )
        versions = _versions()
        rows = [
            (
                score.outcome.value,
                score.value,
                score.standard_error,
                __version__,
                now,
                *text,
                id_,
                proxy,
                versions[proxy],
            )
            for text, scores in zip(texts, architectures.values(), strict=True)
            for proxy, score in scores.items()
            if proxy in versions
        ]
        inserted = connection.executemany(_INSERT, rows).rowcount
        if inserted < len(rows):
            connection.executemany(_REPLACE, rows)
        connection.execute("UPDATE contexts SET scores = scores + ? WHERE id = ?", (inserted, id_))

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the store is not open")
        return self._connection


def _versions() -> dict[str, int]:
    """The versions of the proxies that are installed."""
    return {name: proxies.get(name).version for name in proxies.names()}


def count(connection: sqlite3.Connection) -> int:
    """How many scores there are."""
    [scores] = connection.execute("SELECT coalesce(sum(scores), 0) FROM contexts").fetchone()
    return int(scores)


def remove(connection: sqlite3.Connection, keys: Sequence[Key]) -> int:
    """Removes scores, with what nothing refers to any longer, within a transaction of the caller's.

    Args:
        connection: where.
        keys: architecture, context, proxy and its version of each.

    Returns:
        How many were still there.
    """
    removed: Counter[int] = Counter()
    for key in keys:
        removed[key[1]] += connection.execute(_DELETE, key).rowcount
    connection.executemany(
        "DELETE FROM architectures WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM scores WHERE architecture = ?1)",
        [(architecture,) for architecture in {key[0] for key in keys}],
    )
    connection.executemany(
        "UPDATE contexts SET scores = scores - ? WHERE id = ?",
        [(scores, context) for context, scores in removed.items()],
    )
    connection.execute("DELETE FROM contexts WHERE scores = 0")
    return removed.total()
