"""Which evaluations take more work or memory than a network may, as predicted from their encodings.

To predict the memory of a deep genome takes a tenth of a second, and a request may have thousands: what is not known at
once is found out in a thread, a little at a time, so that no other request waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence

from google.rpc import status_pb2

from archscore.spaces import Architecture
from archscore.spaces.nasbench201 import Cell
from archscore_server import errors
from archscore_server.admission import max_bytes, max_work
from archscore_server.config import Limits
from archscore_server.engine import EvaluationConfig, predicted_bytes
from archscore_server.engine.memory import LARGEST_CELLS
from archscore_server.engine.work import predicted_work
from archscore_server.pool import Pool

#: Seconds of predictions after which another request has its turn.
_TURN = 0.02

#: Kinds of evaluations for which it is kept whether the largest cell passes.
_KINDS = 1_024


class Budget:
    """What evaluating one network may take. To be asked on one event loop."""

    def __init__(self, limits: Limits, pool: Pool) -> None:
        """Takes the limits, and the pool whose workers have the memory."""
        self._limits = limits
        self._pool = pool
        self._predicting = asyncio.Lock()
        self._cells_pass: dict[Hashable, bool] = {}  # written by the one thread that predicts

    async def refusals(
        self, evaluations: Sequence[tuple[Architecture, tuple[str, ...]]], config: EvaluationConfig
    ) -> list[status_pb2.Status | None]:
        """For each evaluation ARCHITECTURE_TOO_LARGE where it takes more than it may, else None.

        Args:
            evaluations: architectures of one search space, each with the names of its proxies.
            config: how they are evaluated.
        """
        found: list[status_pb2.Status | None] = [None] * len(evaluations)
        passing = {proxies for proxies in {proxies for _, proxies in evaluations} if self._known(proxies, config)}
        unknown = [
            index
            for index, (architecture, proxies) in enumerate(evaluations)
            if not (isinstance(architecture, Cell) and proxies in passing)
        ]

        def some(start: int) -> int:
            """Predicts from a position in what is unknown on, and says how far it came."""
            due = time.monotonic() + _TURN
            for position in range(start, len(unknown)):
                index = unknown[position]
                found[index] = self._refusal(*evaluations[index], config)
                if time.monotonic() >= due:
                    return position + 1
            return len(unknown)

        done = 0
        while done < len(unknown):
            async with self._predicting:
                done = await asyncio.to_thread(some, done)
        return found

    def _known(self, proxies: tuple[str, ...], config: EvaluationConfig) -> bool:
        """Whether it is known that every cell passes."""
        return bool(self._cells_pass.get(_kind(proxies, config)))

    def _refusal(
        self, architecture: Architecture, proxies: tuple[str, ...], config: EvaluationConfig
    ) -> status_pb2.Status | None:
        if not isinstance(architecture, Cell):
            return self._predict(architecture, proxies, config)
        # Where the largest cells pass, all do.
        kind = _kind(proxies, config)
        passes = self._cells_pass.get(kind)
        if passes is None:
            passes = all(self._predict(cell, proxies, config) is None for cell in LARGEST_CELLS)
            self._cells_pass[kind] = passes
            if len(self._cells_pass) > _KINDS:
                del self._cells_pass[next(iter(self._cells_pass))]
        return None if passes else self._predict(architecture, proxies, config)

    def _predict(
        self, architecture: Architecture, proxies: tuple[str, ...], config: EvaluationConfig
    ) -> status_pb2.Status | None:
        work, most = predicted_work(architecture, proxies, config), max_work(self._limits, self._pool.info)
        if work > most:
            return errors.architecture_too_large("max_work", work, most)
        available = max_bytes(self._limits, self._pool.info)
        info = self._pool.info
        needed = (
            predicted_bytes(architecture, proxies, config, device=info.device_kind, stack_size=info.stack_size)
            if available
            else 0
        )
        if needed > available:
            return errors.architecture_too_large("max_bytes", needed, available)
        return None


def _kind(proxies: tuple[str, ...], config: EvaluationConfig) -> Hashable:
    """All that a prediction depends on besides the architecture."""
    return (
        proxies,
        config.batch_size,
        config.resolution,
        config.num_classes,
        config.repeats,
        config.init,
        config.precision,
        config.network,
    )
