"""Files of a data directory: opened only where nothing can go wrong but their content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from archscore_server.engine.datasets._errors import DatasetError
from archscore_server.engine.datasets._formats import FormatError

#: Bytes of a file that are read; a larger file is refused unread.
MAX_FILE_BYTES = 2**30

T = TypeVar("T")


def is_there(path: Path) -> bool:
    """Whether something of that name is there, be it a link that leads nowhere or what may not be looked at."""
    try:
        return path.is_symlink() or path.exists()
    except OSError:
        return True


def read_file(name: str, root: Path, file: str, reader: Callable[[BinaryIO], T]) -> T:
    """Reads a file of a dataset.

    Args:
        name: the dataset.
        root: the data directory.
        file: the file, relative to it.
        reader: reads the open file.

    Raises:
        DatasetError: it cannot be read, or not be opened safely.
    """
    try:
        with _resolve(root, file).open("rb") as stream:
            return reader(stream)
    except FormatError as error:
        raise DatasetError(name, f"{file}: {error}") from error
    except OSError as error:
        raise DatasetError(name, f"{file}: {error.strerror or 'it cannot be read'}") from error
    except Exception as error:  # a file that is garbage may have a reader raise anything
        raise DatasetError(name, f"{file}: it cannot be read: {str(error) or type(error).__name__}") from error


def _resolve(root: Path, file: str) -> Path:
    """The path of a file that may be opened: inside the directory, regular, not too large.

    Raises:
        FormatError: it is not.
        OSError: it is not there.
    """
    root = root.resolve(strict=True)
    path = (root / file).resolve(strict=True)
    if not path.is_relative_to(root):
        raise FormatError("it is a link that leads out of the data directory")
    if not path.is_file():
        raise FormatError("it is not a file")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise FormatError(f"it has {size} bytes; at most {MAX_FILE_BYTES} are read")
    return path
