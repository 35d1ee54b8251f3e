"""What the scheduler and a pool say to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from archscore.spaces import Architecture
from archscore_server.engine import ArchitectureTooLargeError, Evaluation, EvaluationConfig

#: Called with (index in the batch, result) pairs as stacks of a batch finish. A network that does not fit into memory,
#: alone in its stack, has the error that says so as its result.
OnResults = Callable[[Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]], None]


#: How a worker was lost: it ended of itself or was killed by others; it was killed because it was silent or its batch
#: never ended; it said that its device computes no more.
LossReason = Literal["died", "hung", "device_error"]


class WorkerLostError(Exception):
    """The worker that ran the batch is gone; what had not been reported must be run again.

    Attributes:
        reason: how it was lost.
    """

    def __init__(self, message: str, reason: LossReason = "died") -> None:
        """Says how it ended, for the operator's log."""
        super().__init__(message)
        self.reason: LossReason = reason


class PoolStartError(Exception):
    """The pool cannot start. The message says why, to whoever starts the server."""


class BatchFailedError(Exception):
    """The engine raised while it evaluated the batch; the worker lives on. The message is for the operator's log."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Compatible architectures: one search space, one config, the same proxies."""

    architectures: tuple[Architecture, ...]
    proxies: tuple[str, ...]
    config: EvaluationConfig


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What is known of a batch that has ended.

    Attributes:
        compute_seconds: how long its worker computed.
        pass_seconds: how much of that went into each pass, by name; the rest is in none.
    """

    compute_seconds: float
    pass_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory that a worker and its device use, in bytes.

    Attributes:
        resident: of the process, in the memory of the machine.
        device_used: in use on the device, by whomever.
        device_size: what the device has.
        allocated: the most that tensors took since the last batch began, as torch's allocator sees it; None on a CPU.
        reserved: what torch's allocator holds; None on a CPU.
    """

    resident: int
    device_used: int
    device_size: int
    allocated: int | None = None
    reserved: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device of the pool; fields as in Device of the contract."""

    kind: str
    name: str
    workers: int
    threads_per_worker: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """What runs in the workers; known once the pool has started.

    Attributes:
        torch_version: that of the workers.
        numpy_version: likewise.
        devices: where they compute.
        gpu_uuids: what the driver calls the devices, in their order; empty where they are not GPUs.
        tf32: whether all devices have TF32.
        stack_size: the most networks that a worker evaluates side by side.
    """

    torch_version: str
    numpy_version: str
    devices: tuple[DeviceInfo, ...]
    gpu_uuids: tuple[str, ...] = ()
    tf32: bool = False
    stack_size: int = 1

    @property
    def device_kind(self) -> str:
        """Kind of the devices: a pool has one kind, since scores of different kinds differ in rounding."""
        return self.devices[0].kind


class Pool(Protocol):
    """Workers that evaluate batches."""

    @property
    def slots(self) -> int:
        """Batches that can run at once; constant after start, whatever becomes of workers."""
        ...

    @property
    def max_batch(self) -> int:
        """Architectures in a batch beyond which nothing is gained on these devices; constant after start."""
        ...

    @property
    def max_short_batch(self) -> int:
        """The same of architectures that take so little time that what is done once a batch counts."""
        ...

    @property
    def info(self) -> PoolInfo:
        """What runs in the workers. Raises RuntimeError before `start` has returned."""
        ...

    async def start(self) -> None:
        """Starts the workers and returns when all are warm: torch loaded, one small evaluation done.

        Raises:
            PoolStartError: they cannot start. Nothing is left running.
        """
        ...

    async def run(self, batch: Batch, on_results: OnResults) -> BatchReport:
        """Runs a batch on a free worker (waits for one) and reports results as its stacks finish.

        Cancelling this drops the results that are still to come, but the worker finishes the batch all the same.

        Raises:
            WorkerLostError: the worker is gone; a new one is being started.
            BatchFailedError: the engine raised.
        """
        ...

    async def stop(self) -> None:
        """Ends the workers: at once, whatever they are doing. Returns when no process is left."""
        ...
