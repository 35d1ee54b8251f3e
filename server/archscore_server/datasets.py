"""What the front end knows of the datasets in the data directory: it looks once, when the server starts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from archscore_server import errors
from archscore_server.engine import DatasetError, DatasetInfo, DatasetNotFoundError, Datasets, EvaluationConfig
from archscore_server.engine._cache import ByteCache
from archscore_server.engine.data import minibatch_sha256
from archscore_server.engine.datasets import GAUSSIAN, file_of, is_known
from archscore_server.errors import RequestError, quote

#: Hashes of minibatches that are kept.
_MAX_HASHES = 1024

#: Pixels of a minibatch that is drawn in milliseconds.
_SMALL_MINIBATCH = 2**18

_logger = logging.getLogger(__name__)


class Catalogue:
    """The real datasets at hand. Lives on one event loop; files are read in threads."""

    def __init__(self, data: Datasets) -> None:
        """Knows nothing until `scan`.

        Args:
            data: the data directory.
        """
        self._data = data
        self._infos: dict[str, DatasetInfo] = {}
        self._broken: dict[str, DatasetError] = {}
        self._scanned = False
        self._hashes: ByteCache[str] = ByteCache(_MAX_HASHES)
        # Reading a dataset or drawing a minibatch takes memory, and Datasets is for one thread at a time.
        self._lock = asyncio.Lock()

    @property
    def infos(self) -> Sequence[DatasetInfo]:
        """The datasets that can be used: published ones, then archives by name."""
        return tuple(self._infos.values())

    async def scan(self) -> None:
        """Reads every dataset of the directory once and forgets its images. Logs a line for each, usable or not."""
        try:
            names = await asyncio.to_thread(self._data.names)
        except OSError as error:
            _logger.warning("the data directory cannot be read: %s", error)
            names = []
        for name in names:
            try:
                async with self._lock:
                    info = await asyncio.to_thread(self._inspect, name)
            except DatasetError as error:
                self._broken[name] = error
                _logger.warning("dataset %s cannot be used: %s", quote(name), error.reason)
            else:
                self._infos[name] = info
                _logger.info("dataset %s: %d images, content %s", name, info.images, info.content_sha256)
        self._scanned = True

    def find(self, name: str) -> DatasetInfo | None:
        """What is known of a dataset; None where it cannot be used, and for "gaussian"."""
        return self._infos.get(name)

    def require(self, name: str) -> None:
        """Makes sure that a known dataset can be used.

        Raises:
            RequestError: it is not there, or broken; or nobody has looked yet.
        """
        if name == GAUSSIAN or name in self._infos:
            return
        if not self._scanned:
            raise errors.starting()
        raise _refusal(self._broken.get(name) or DatasetNotFoundError(name, file_of(name)))

    async def minibatch_sha256(self, config: EvaluationConfig) -> str:
        """The hash of a config's first minibatch.

        Raises:
            RequestError: the dataset can no longer be used.
        """
        shape = (config.batch_size, config.resolution, config.num_classes)
        key = (config.dataset, config.dataset_sha256, config.seed, shape)
        kept = self._hashes.get(key)
        if kept is None:
            values = config.batch_size * config.resolution**2
            # In a thread since a large minibatch takes a second to draw; nobody else is to wait for those who ask for
            # large ones.
            small = config.dataset == GAUSSIAN and values <= _SMALL_MINIBATCH
            async with contextlib.nullcontext() if small else self._lock:
                try:
                    kept = await asyncio.to_thread(minibatch_sha256, config, self._data)
                except DatasetError as error:
                    raise _refusal(error) from error
            self._hashes.put(key, kept, 1)
        return kept

    def _inspect(self, name: str) -> DatasetInfo:
        if not is_known(name):
            raise DatasetError(name, "no config can have this name: letters, digits, '_', '-', '.', at most 64")
        return self._data.read(name).info


def _refusal(error: DatasetError) -> RequestError:
    if isinstance(error, DatasetNotFoundError):
        return errors.dataset_not_found(error.name, error.file)
    return errors.dataset_unusable(error.name, error.reason)
