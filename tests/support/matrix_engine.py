"""An engine for worker processes that files hold back and harm, in the directory $ARCHSCORE_MATRIX.

While there is a file `hold`, batches do not go on. Cells that the file `deadly` lists by index kill their worker, those
that `raising` lists raise.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from archscore.spaces import Architecture, nasbench201
from archscore_server.engine import Evaluation, EvaluationConfig, Outcome, Score
from archscore_server.pool import Memory
from archscore_server.pool._messages import Hello

#: Seconds that it says each architecture took in the pass "train".
PASS_SECONDS = 2.0**-20

VARIABLE = "ARCHSCORE_MATRIX"


class MatrixEngine:
    """Scores cells with their index."""

    def __init__(self, device: str, threads: int, data_dir: Path | None) -> None:
        self.hello = Hello("2.0", "1.0", device, "puppet", 2**30)
        self.pass_seconds: Mapping[str, float] = {}
        self._directory = Path(os.environ[VARIABLE])

    def evaluate_stacks(
        self, architectures: Sequence[Architecture], proxies: Sequence[str], config: EvaluationConfig
    ) -> Iterator[Sequence[tuple[int, Evaluation]]]:
        while (self._directory / "hold").exists():
            time.sleep(0.01)
        self.pass_seconds = {"train": PASS_SECONDS * len(architectures)}
        indices = [cell.index for cell in architectures if isinstance(cell, nasbench201.Cell)]
        if self._lists("deadly", indices):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._lists("raising", indices):
            raise ValueError("no such luck")
        for place, index in enumerate(indices):
            yield [(place, Evaluation({proxy: Score(Outcome.OK, float(index)) for proxy in proxies}))]

    def memory(self) -> Memory:
        return Memory(resident=3, device_used=2, device_size=4)

    def check(self) -> None:
        """The device is never broken."""

    def rest(self) -> None:
        """There is nothing to give back."""

    def _lists(self, name: str, indices: Sequence[int]) -> bool:
        path = self._directory / name
        return path.exists() and bool(set(map(int, path.read_text().split())) & set(indices))
