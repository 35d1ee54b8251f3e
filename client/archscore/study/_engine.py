"""Cells scored by the engine, in this process or in several."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import os
import platform
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Final

import torch
from google.protobuf import json_format

from archscore import _status
from archscore._requests import config_message
from archscore._version import __version__
from archscore.errors import ArchscoreError, UsageError
from archscore.spaces.nasbench201 import SPACE, Cell, from_index
from archscore.study._machine import cpu_model
from archscore.study._rows import Failure, ProxyInfo, Row, Setting
from archscore.v1 import scoring_pb2
from archscore_server import responses
from archscore_server.config import Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import Datasets, Evaluation, EvaluationConfig, evaluate_stacks
from archscore_server.engine import proxies as registry
from archscore_server.engine.statistics import Pass
from archscore_server.errors import RequestError
from archscore_server.requests import ScoringRequests

#: Cells that are evaluated together by kind of device: what the engine makes one stack of.
_TOGETHER: Final = {"cpu": 1, "cuda": 32}

#: Tasks that wait for a worker, so that none is ever idle.
_AHEAD: Final = 2


@dataclass(frozen=True, slots=True)
class _Work:
    """What a process needs to know to score."""

    proxies: tuple[str, ...]
    config: EvaluationConfig
    device: str
    threads: int
    data_dir: Path | None


class EngineSource:
    """Evaluates cells without a server."""

    def __init__(
        self,
        *,
        proxies: Sequence[str] | None,
        config: Mapping[str, Any] | None,
        seed: int,
        device: str = "cpu",
        workers: int = 1,
        threads: int = 1,
        data_dir: Path | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            proxies: names; None takes all.
            config: an EvaluationConfig in the proto3 JSON mapping; None takes the defaults.
            seed: of the order of the cells.
            device: "cpu" or "cuda".
            workers: processes; with one it is this process that computes.
            threads: CPU threads of each.
            data_dir: directory with real datasets.

        Raises:
            UsageError: there are no such proxies, no such config or no such device.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"CUDA is not available: torch {torch.__version__} sees no GPU")
        names = sorted(proxies or registry.names())
        resolved = _resolve(names, config, data_dir)
        self._work = _Work(tuple(names), resolved, device, threads, data_dir)
        self._workers = workers
        self.run = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "archscore": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": f"cpu ({cpu_model()})" if device == "cpu" else f"cuda ({torch.cuda.get_device_name()})",
            "workers": workers,
            "threads": threads,
            "seconds": "of CPU time" if device == "cpu" else "of wall-clock time",
        }
        self.setting = Setting(
            seed,
            json_format.MessageToDict(responses.config_message(resolved, SPACE)),
            {
                own.name: ProxyInfo(own.version, own.higher_is_better, tuple(str(needed) for needed in own.passes))
                for own in map(registry.get, names)
            },
        )

    def score(self, cells: Sequence[Cell]) -> Generator[Row | Failure, None, None]:
        """Scores cells; they come as they are ready.

        Raises:
            ArchscoreError: a worker process died.
        """
        size = _TOGETHER[self._work.device]
        tasks = [[cell.index for cell in cells[start : start + size]] for start in range(0, len(cells), size)]
        if self._workers > 1:
            yield from self._score_elsewhere(tasks)
            return
        threads = torch.get_num_threads()
        scorer = _Scorer(self._work)
        try:
            for task in tasks:
                yield from scorer.score(task)
        finally:
            torch.set_num_threads(threads)

    def _score_elsewhere(self, tasks: Sequence[list[int]]) -> Generator[Row | Failure, None, None]:
        waiting = iter(tasks)
        running: set[Future[list[Row | Failure]]] = set()
        workers = ProcessPoolExecutor(
            self._workers, get_context("spawn"), initializer=_start_worker, initargs=(self._work,)
        )
        with _threads_of_children(self._work.threads):  # a worker starts when there is work for it
            try:
                while True:
                    free = self._workers * _AHEAD - len(running)
                    running |= {workers.submit(_score_here, task) for task in itertools.islice(waiting, free)}
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield from future.result()
            except BrokenProcessPool:
                raise ArchscoreError(
                    "a worker process died, perhaps for want of memory; what was scored is kept: run this again"
                ) from None
            finally:
                workers.shutdown(cancel_futures=True)


class _Scorer:
    """The engine in this process."""

    def __init__(self, work: _Work) -> None:
        torch.set_num_threads(work.threads)
        self._work = work
        self._data = Datasets(work.data_dir)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._passed_at = 0.0

    def score(self, indices: Sequence[int]) -> list[Row | Failure]:
        """Scores cells as one stack, if they fit; seconds are shared out evenly."""
        work = self._work
        cells = [from_index(index) for index in indices]
        found: list[Row | Failure] = []
        self._passed_at = time.process_time()
        stacks = evaluate_stacks(
            cells, work.proxies, work.config, data=self._data, device=work.device, on_pass=self._passed
        )
        for stack in stacks:
            shared = {name: seconds / len(stack) for name, seconds in self._seconds.items()}
            self._seconds.clear()
            for place, result in stack:
                if isinstance(result, Evaluation):
                    scores = {
                        name: own.outcome.value if own.value is None else own.value
                        for name, own in result.scores.items()
                    }
                    found.append(Row(indices[place], scores, shared))
                else:
                    found.append(Failure(indices[place], str(result)))
        return found

    def _passed(self, name: Pass, seconds: float) -> None:
        """Notes what a pass took. On a CPU that is the processor's time: other processes may want the cores too."""
        now = time.process_time()
        self._seconds[name.value] += now - self._passed_at if self._work.device == "cpu" else seconds
        self._passed_at = now


_scorer: _Scorer


def _start_worker(work: _Work) -> None:
    """Readies a worker process."""
    global _scorer  # noqa: PLW0603 -- the pool has no other place for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _scorer = _Scorer(work)


def _score_here(indices: Sequence[int]) -> list[Row | Failure]:
    return _scorer.score(indices)


def _end_with_parent() -> None:
    """Ends this process once its parent is gone, however that ended: nobody would read its results."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Tells processes that are started meanwhile how many threads their libraries may have."""
    name = "OMP_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _resolve(names: Sequence[str], config: Mapping[str, Any] | None, data_dir: Path | None) -> EvaluationConfig:
    """The config with every field resolved, checked as a server would."""
    catalogue = Catalogue(Datasets(data_dir))
    asyncio.run(catalogue.scan())
    request = scoring_pb2.ScoreArchitecturesRequest(proxies=names, config=config_message(config))
    request.architectures.add(space=SPACE.name, encoding=from_index(0).format())
    try:
        return ScoringRequests(Limits(), catalogue).check(request).config
    except RequestError as error:
        raise UsageError(str(_status.from_status(error.status))) from None
