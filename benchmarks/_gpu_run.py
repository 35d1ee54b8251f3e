"""What the sections of gpu.py share: sizes, time, rows of the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from archscore.spaces.nasbench201 import Cell, NetworkConfig
from archscore_server.engine import EvaluationConfig, Precision
from archscore_server.engine.stack_sizes import DEFAULTS

Work: TypeAlias = Callable[[], object]
"""What is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Sizes of everything that is measured.

    Attributes:
        channels: of NAS-Bench-201 networks.
        cells_per_stage: likewise.
        resolution: side of the images.
        batch_sizes: images in a minibatch, the one that targets are about first.
        stack_sizes: networks side by side.
        cells: how many of the fixed cells are taken.
        rounds: measurements of each thing, of which the median counts.
        golden: reference cases at most.
        repeats: seeds of Zen.
        sample: cells whose scores in TF32 are compared with those in float32.
        served: cells sent to the service, for each worker.
        workers: worker processes on each device.
        units: networks whose layer is timed in other forms.
        matrix: side of the matrices of the matrix product.
        copied: bytes of the tensor that is copied.
    """

    channels: int = 16
    cells_per_stage: int = 5
    resolution: int = 32
    batch_sizes: tuple[int, ...] = (64, 32, 128)
    stack_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    cells: int = 12
    rounds: int = 3
    golden: int = 1000
    repeats: int = 32
    sample: int = 128
    served: int = 1024
    workers: tuple[int, ...] = (1, 2, 4)
    units: int = 64
    matrix: int = 8192
    copied: int = 2**30

    def config(self, batch_size: int | None = None, precision: Precision = Precision.FLOAT32) -> EvaluationConfig:
        """The config of NAS-Bench-201 networks."""
        return EvaluationConfig(
            batch_size=batch_size or self.batch_sizes[0],
            resolution=self.resolution,
            precision=precision,
            network=NetworkConfig(channels=self.channels, cells_per_stage=self.cells_per_stage),
        )


QUICK = Setting(
    channels=4,
    cells_per_stage=1,
    resolution=8,
    batch_sizes=(4, 2),
    stack_sizes=(1, 2, 4),
    cells=2,
    rounds=1,
    golden=2,
    repeats=2,
    sample=4,
    served=8,
    workers=(1,),
    units=2,
    matrix=256,
    copied=2**20,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        section: what it belongs to.
        what: what was measured.
        value: the figure; None where there is none.
        unit: of the figure.
        note: what else is to be known, or why there is no figure.
        fault: whether something is wrong that should not be.
    """

    section: str
    what: str
    value: float | None = None
    unit: str = ""
    note: str = ""
    fault: bool = False


def skipped(section: str, what: str, why: str) -> Row:
    """What was not measured."""
    return Row(section, what, note=f"skipped: {why}")


@dataclass(slots=True)
class Budget:
    """Seconds that may be spent, shared out among sections: what one leaves the others have."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    share: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Starts."""
        self.started = self.clock()

    def open(self, share: float) -> None:
        """The next section begins, which has this part of all."""
        self.share += share

    @property
    def left(self) -> float:
        """Seconds that the section still has."""
        return self.started + self.seconds * self.share - self.clock()

    def allows(self, seconds: float) -> bool:
        """Whether there is time for something that takes about so long."""
        return seconds <= self.left


@dataclass(slots=True)
class Run:
    """One run of the benchmark.

    Attributes:
        device: where.
        setting: how large.
        budget: how long.
        cells: the cells that are timed.
        best: the fastest stack size found, by workload and batch size.
    """

    device: torch.device
    setting: Setting
    budget: Budget
    cells: Sequence[Cell]
    best: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def stack_size(self, workload: str) -> int:
        """The fastest stack size for the first batch size, as far as it is known."""
        return self.best.get((workload, self.setting.batch_sizes[0]), DEFAULTS[self.device.type])

    def seconds(self, work: Callable[[], object]) -> float:
        """How long work takes, until the device has nothing left to do; by CUDA events where it is a GPU."""
        if not self.cuda:
            started = time.perf_counter()
            work()
            return time.perf_counter() - started
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def median(self, work: Callable[[], object]) -> float:
        """The median of how long it takes in each round, after one to warm up; of fewer rounds where time is short."""
        work()
        measured = [self.seconds(work)]
        while len(measured) < self.setting.rounds and self.budget.allows(measured[-1]):
            measured.append(self.seconds(work))
        return statistics.median(measured)
