"""What a search leaves on disk while it runs: a log of its evaluations, and where it stands.

`log.jsonl` has one line an evaluation, in order; `checkpoint.json` says how much of it counts, and all that is needed
to go on from there. The log is on disk before the checkpoint that counts it, and a checkpoint replaces the one before
in one step. So whenever the search ends, however it does, the two fit together: what the log has beyond is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from archscore.errors import UsageError
from archscore.search._record import Record
from archscore.search._settings import difference

LOG: Final = "log.jsonl"
CHECKPOINT: Final = "checkpoint.json"

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a search stands.

    Attributes:
        settings: of the search.
        records: evaluations that the log counts.
        log_bytes: bytes of the log that hold them.
        stage: the stage of a screening, from 0.
        stage_started: evaluations before this stage.
        proposed: encoding and parent of proposals that are not answered yet, in order.
        rng_state: of the random numbers after the last of them.
        rejected: draws that did not keep to the constraints.
        repeated: draws that had been drawn before.
        fingerprints: what scores depended on, each as JSON with the index of the first evaluation that had it.
        seconds: that the search has run.
    """

    settings: Mapping[str, Any]
    records: int
    log_bytes: int
    stage: int
    stage_started: int
    proposed: Sequence[tuple[str, int | None]]
    rng_state: Sequence[Any]
    rejected: int
    repeated: int
    fingerprints: Sequence[tuple[int, Mapping[str, Any]]]
    seconds: float


class RunDirectory:
    """The directory of a search."""

    def __init__(self, path: Path) -> None:
        """Touches nothing yet."""
        self.path = path
        self._log_bytes = 0

    @property
    def used(self) -> bool:
        """Whether a search has left something here."""
        return (self.path / CHECKPOINT).exists() or (self.path / LOG).exists()

    def begin(self) -> None:
        """Makes the directory, without what another search left in it.

        Raises:
            UsageError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / CHECKPOINT).unlink(missing_ok=True)
            (self.path / LOG).unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {self.path}: {error.strerror}") from None
        self._log_bytes = 0

    def resume(self, settings: Mapping[str, Any]) -> tuple[Checkpoint, list[Record]] | None:
        """Where the search of these settings stood; what its log has beyond that is cut off.

        Args:
            settings: of the search that is to go on. Only `evaluations` may be others, and more.

        Returns:
            Checkpoint and records; None if the search had not come to its first checkpoint.

        Raises:
            UsageError: what is there is of another search, or damaged.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            self.begin()
            return None
        try:
            checkpoint = _parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"cannot resume from {path}: {error!r}") from None
        self._check(checkpoint, settings)
        log = self.path / LOG
        try:
            records = _take_up(log, checkpoint)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot resume from {log}: {error}") from None
        self._log_bytes = checkpoint.log_bytes
        return checkpoint, records

    def save(self, checkpoint: Checkpoint, new: Sequence[Record]) -> None:
        """Puts records into the log, then the checkpoint that counts them in the place of the last one.

        Args:
            checkpoint: where the search stands; its log_bytes are filled in here.
            new: the records since the last checkpoint.
        """
        if new:
            with (self.path / LOG).open("ab") as file:
                # An attempt to save that did not come to its end may have left something.
                file.truncate(self._log_bytes)
                file.seek(0, os.SEEK_END)
                file.write("".join(f"{record.to_line()}\n" for record in new).encode())
                _sync(file.fileno(), file.flush)
                end = file.tell()
        else:
            end = self._log_bytes
            (self.path / LOG).touch()
        values = asdict(checkpoint) | {"log_bytes": end}
        write_atomically(self.path / CHECKPOINT, json.dumps({"format": _FORMAT, **values}) + "\n")
        self._log_bytes = end

    def _check(self, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
        before = checkpoint.settings
        other = difference({**before, "evaluations": None}, {**settings, "evaluations": None})
        if other:
            raise UsageError(f"{self.path} holds another search: {other}")
        if settings["evaluations"] < before["evaluations"]:
            raise UsageError(
                f"{self.path} holds a search of {before['evaluations']} evaluations: a resumed one may have more, "
                f"not only {settings['evaluations']}"
            )


def _parse(text: str) -> Checkpoint:
    values = json.loads(text)
    if values.pop("format") != _FORMAT:
        raise ValueError("it was written by another version of archscore")
    values["proposed"] = [(encoding, parent) for encoding, parent in values["proposed"]]
    values["fingerprints"] = [(index, fingerprint) for index, fingerprint in values["fingerprints"]]
    return Checkpoint(**values)


def _take_up(log: Path, checkpoint: Checkpoint) -> list[Record]:
    """The records that a checkpoint counts; the log then ends with them."""
    with log.open("r+b") as file:
        text = file.read(checkpoint.log_bytes)
        if len(text) < checkpoint.log_bytes:
            raise ValueError("it is shorter than the checkpoint says")
        file.truncate(checkpoint.log_bytes)
    records = [Record.from_line(line) for line in text.decode().splitlines()]
    if [record.index for record in records] != list(range(checkpoint.records)):
        raise ValueError("it has other records than the checkpoint says")
    return records


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there either whole or not at all, also after a crash of the machine."""
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        _sync(file.fileno(), file.flush)
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _sync(descriptor: int, flush: Any) -> None:
    flush()
    os.fsync(descriptor)
