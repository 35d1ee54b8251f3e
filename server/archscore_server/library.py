"""The score store as scoring sees it: scores of a config go in as batches report them, and come out by config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archscore.spaces import Architecture
from archscore_server.datasets import Catalogue
from archscore_server.engine import ArchitectureTooLargeError, Evaluation, EvaluationConfig, Score
from archscore_server.errors import RequestError
from archscore_server.pool import Batch, BatchReport, OnResults, Pool, PoolInfo
from archscore_server.store import Context, Store


class Library:
    """Scores by config: knows what else the store's keys are made of."""

    def __init__(self, store: Store, catalogue: Catalogue, pool: Pool) -> None:
        """Takes the store and where the rest of a key comes from.

        Args:
            store: keeps the scores.
            catalogue: hashes minibatches.
            pool: knows device and versions, once it has started.
        """
        self._store = store
        self._catalogue = catalogue
        self._pool = pool

    async def get(
        self, config: EvaluationConfig, architectures: Sequence[Architecture], proxies: Sequence[str]
    ) -> Sequence[Mapping[str, Score]]:
        """What is stored of each architecture, by proxy.

        Raises:
            RequestError: the config's dataset can no longer be used.
        """
        return await self._store.get(await self.context(config), architectures, proxies)

    async def context(self, config: EvaluationConfig) -> Context:
        """What scores of a config depend on besides architecture and proxy.

        Raises:
            RequestError: the config's dataset can no longer be used.
        """
        info = self._pool.info
        return Context(config, await self._catalogue.minibatch_sha256(config), info.device_kind, info.torch_version)

    def put(self, context: Context, architecture: Architecture, evaluation: Evaluation) -> None:
        """Keeps the scores of an evaluation."""
        self._store.put(context, architecture, evaluation.scores)


class RecordingPool:
    """A pool whose results are stored as they come, whether or not anybody still waits for them."""

    def __init__(self, pool: Pool, library: Library) -> None:
        """Wraps a pool."""
        self._pool = pool
        self._library = library

    @property
    def slots(self) -> int:
        """Batches that can run at once."""
        return self._pool.slots

    @property
    def max_batch(self) -> int:
        """Architectures in a batch beyond which nothing is gained."""
        return self._pool.max_batch

    @property
    def max_short_batch(self) -> int:
        """The same of networks that take little time."""
        return self._pool.max_short_batch

    @property
    def info(self) -> PoolInfo:
        """What runs in the workers."""
        return self._pool.info

    async def start(self) -> None:
        """Starts the workers; see `Pool.start`."""
        await self._pool.start()

    async def run(self, batch: Batch, on_results: OnResults) -> BatchReport:
        """Runs a batch and stores its results; see `Pool.run`."""
        try:
            context = await self._library.context(batch.config)
        except RequestError:  # the dataset is gone: the batch will say so itself
            return await self._pool.run(batch, on_results)

        def record(results: Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]) -> None:
            for index, result in results:
                if isinstance(result, Evaluation):
                    self._library.put(context, batch.architectures[index], result)
            on_results(results)

        return await self._pool.run(batch, record)

    async def stop(self) -> None:
        """Ends the workers; see `Pool.stop`."""
        await self._pool.stop()
