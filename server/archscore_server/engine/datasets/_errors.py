"""What may be wrong with a dataset."""

from __future__ import annotations

_MAX_REASON = 300


class DatasetError(Exception):
    """A dataset that cannot be used.

    Attributes:
        name: the dataset.
        reason: why, on one line of ASCII, for clients too: files are named relative to the data directory.
    """

    def __init__(self, name: str, reason: str) -> None:
        """Takes the dataset's name and why it cannot be used; what files say of themselves may be in it."""
        short = ascii(reason)[1:-1].replace("\\'", "'")
        self.name = name
        self.reason = short if len(short) <= _MAX_REASON else f"{short[:_MAX_REASON]}..."
        super().__init__(f"dataset {name}: {self.reason}")


class DatasetNotFoundError(DatasetError):
    """The file that a dataset was looked for in is not there.

    Attributes:
        file: that file, relative to the data directory.
    """

    def __init__(self, name: str, file: str) -> None:
        """Takes the dataset's name and the file looked for."""
        super().__init__(name, f"looked for {file} in the data directory")
        self.file = file
