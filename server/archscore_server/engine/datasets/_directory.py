"""The data directory: finds datasets in it, reads them, keeps those in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from archscore_server.engine._cache import ByteCache
from archscore_server.engine.datasets._dataset import MAX_BYTES, Dataset, make_dataset
from archscore_server.engine.datasets._errors import DatasetError, DatasetNotFoundError
from archscore_server.engine.datasets._files import is_there, read_file
from archscore_server.engine.datasets._formats import NUM_CLASSES, reader_of
from archscore_server.engine.datasets._names import GAUSSIAN, KNOWN, PUBLISHED, file_of, files_of, is_known


class Datasets:
    """The datasets of a data directory, each read when it is first asked for. For one thread at a time."""

    def __init__(self, directory: Path | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        """Reads nothing yet.

        Args:
            directory: where the files are; None for nowhere, so that no dataset is found.
            max_bytes: memory for datasets that are kept; the least recently used go first.
        """
        self._directory = directory
        self._kept: ByteCache[Dataset] = ByteCache(max_bytes)

    def names(self) -> list[str]:
        """Names under which something is there, usable or not: published datasets, then every NAME.npz by name.

        Raises:
            OSError: the directory cannot be read.
        """
        if self._directory is None:
            return []
        published = [name for name in PUBLISHED if is_there(self._directory / file_of(name))]
        archives = [path.stem for path in self._directory.iterdir() if path.suffix == ".npz"]
        return published + [f"npz:{name}" for name in sorted(archives)]

    def open(self, name: str, content_sha256: str | None = None) -> Dataset:
        """A dataset, which is kept for the next time.

        Args:
            name: a dataset other than "gaussian".
            content_sha256: the content that it must have; None takes any.

        Raises:
            DatasetNotFoundError: it is not here.
            DatasetError: its name is unknown, or its files are broken or have another content.
        """
        dataset = self._kept.get(name)
        if dataset is None:
            dataset = self.read(name)
            self._kept.put(name, dataset, dataset.nbytes)
        if content_sha256 not in (None, dataset.info.content_sha256):
            raise DatasetError(name, "its files have changed since they were first read")
        return dataset

    def read(self, name: str) -> Dataset:
        """Like `open`, but reads the files in any case and keeps nothing."""
        if name == GAUSSIAN or not is_known(name):
            raise DatasetError(name, f"it is not in files: known are {KNOWN}")
        root = self._directory
        if root is None or not is_there(root / file_of(name)):
            raise DatasetNotFoundError(name, file_of(name))
        parts = [read_file(name, root, file, reader_of(name)) for file in files_of(name)]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return make_dataset(name, images, labels, NUM_CLASSES.get(name))
