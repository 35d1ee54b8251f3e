"""The file in which a study keeps its scores: Parquet, complete at any time, and written to as cells are scored."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet

from archscore.errors import UsageError
from archscore.study._rows import Row, Setting

_KEY: Final = b"archscore.study"
_FORMAT: Final = 1
_OK: Final = "ok"
_SECONDS: Final = "seconds."
_OUTCOME: Final = ".outcome"
_MOST_SHOWN: Final = 5

#: Share of the time that may go into writing. Parquet ends with an index of all that is before it, so to add to a file
#: is to write it again: slow cells are written one by one, fast ones many at a time.
_SHARE: Final = 0.05


class ScoreFile:
    """Scores of cells, as a Parquet file that is replaced as a whole, so that it can be read whenever a run dies.

    Columns: `index`, the cell's place in the benchmark's official order (int32); for each proxy its value (float64,
    null where there is none) under its name, and its outcome under `NAME.outcome`; `seconds.PASS` for each pass
    (float64). Rows are in the order in which cells were scored. What the scores depend on, and the runs that added to
    them, are JSON under the key `archscore.study` of the schema's metadata.

    Attributes:
        setting: what the scores depend on.
        runs: what each run that added to the file ran on.
        rows: by index.
    """

    def __init__(
        self,
        path: Path,
        setting: Setting,
        runs: Sequence[Mapping[str, Any]] = (),
        rows: Sequence[Row] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes what is in the file already; see `open_for` and `read`."""
        self.setting = setting
        self.runs = list(runs)
        self.rows = {row.index: row for row in rows}
        self._path = path
        self._clock = clock
        self._due = clock()
        self._unwritten = False

    @classmethod
    @contextlib.contextmanager
    def open_for(cls, path: Path, setting: Setting, run: Mapping[str, Any]) -> Iterator[ScoreFile]:
        """The file to add scores to, made if there is none; what was added is written at the end at the latest.

        Args:
            path: where it is.
            setting: what the scores will depend on.
            run: what this run runs on, for the record.

        Raises:
            UsageError: the file has scores of another setting, is none of ours, or another process writes to it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            file = cls.read(path) if path.exists() else cls(path, setting)
            differences = setting.differences(file.setting)
            if differences:
                raise UsageError(f"{path} has scores of another study (here {_listed(differences)})")
            file.runs.append({**run, "before": len(file.rows)})
            try:
                yield file
            finally:
                file.flush()

    @classmethod
    def read(cls, path: Path) -> ScoreFile:
        """The file as it is.

        Raises:
            UsageError: there is none, or it is none of ours.
        """
        try:
            table = parquet.read_table(path)
            header = json.loads((table.schema.metadata or {})[_KEY])
            if header["format"] != _FORMAT:
                raise UsageError(f"{path} was written by another version of archscore (format {header['format']})")
            setting = Setting.from_json(header["setting"])
            return cls(path, setting, header["runs"], _rows(table, setting))
        except FileNotFoundError:
            raise UsageError(f"there are no scores: {path} does not exist") from None
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{path} is no file of scores of `archscore study`: {error}") from error

    def add(self, row: Row) -> None:
        """Adds a cell, and writes the file if that was not done just now."""
        self.rows[row.index] = row
        self._unwritten = True
        if self._clock() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Writes what has not been written; when this returns, it is on the disk."""
        if not self._unwritten:
            return
        started = self._clock()
        temporary = self._path.with_name(self._path.name + ".tmp")
        with temporary.open("wb") as file:
            parquet.write_table(self._table(), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        _sync_directory(self._path.parent)
        self._unwritten = False
        now = self._clock()
        self._due = now + (now - started) / _SHARE

    def _table(self) -> pa.Table:
        rows = list(self.rows.values())
        columns: dict[str, pa.Array] = {"index": pa.array([row.index for row in rows], pa.int32())}
        for name in self.setting.proxies:
            scores = [row.scores[name] for row in rows]
            columns[name] = pa.array([None if isinstance(own, str) else own for own in scores], pa.float64())
            outcomes = pa.array([own if isinstance(own, str) else _OK for own in scores], pa.string())
            columns[name + _OUTCOME] = outcomes.dictionary_encode()
        for name in dict.fromkeys(name for row in rows for name in row.seconds):
            columns[_SECONDS + name] = pa.array([row.seconds.get(name) for row in rows], pa.float64())
        header = {"format": _FORMAT, "setting": self.setting.to_json(), "runs": self.runs}
        return pa.table(columns).replace_schema_metadata({_KEY: json.dumps(header)})


def _rows(table: pa.Table, setting: Setting) -> list[Row]:
    columns = table.to_pydict()
    scores = {name: _scores(columns[name], columns[name + _OUTCOME]) for name in setting.proxies}
    seconds = {name.removeprefix(_SECONDS): column for name, column in columns.items() if name.startswith(_SECONDS)}
    return [
        Row(
            index,
            {name: column[place] for name, column in scores.items()},
            {name: column[place] for name, column in seconds.items() if column[place] is not None},
        )
        for place, index in enumerate(columns["index"])
    ]


def _scores(values: Sequence[float | None], outcomes: Sequence[str]) -> list[float | str]:
    return [outcome if value is None else value for value, outcome in zip(values, outcomes, strict=True)]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from writing: two that replace a file in turn would each undo what the other did."""
    lock = path.with_name(path.name + ".lock")
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process writes to {path}") from None
        yield


def _listed(differences: Sequence[str]) -> str:
    shown = "; here ".join(differences[:_MOST_SHOWN])
    return f"{shown}; and {len(differences) - _MOST_SHOWN} more" if len(differences) > _MOST_SHOWN else shown


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
