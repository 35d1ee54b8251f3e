"""What the front end and a worker say to each other, and how it travels: a length, then a pickle."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from archscore.spaces import Architecture
from archscore_server import logs
from archscore_server.engine import ArchitectureTooLargeError, Evaluation, EvaluationConfig
from archscore_server.pool._base import Memory

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker is warm; this is what it computes with, as in PoolInfo.

    Attributes:
        torch_version: torch's.
        numpy_version: NumPy's.
        device_kind: "cpu" or "cuda".
        device_name: what the maker calls the device.
        memory_bytes: what it has.
        device_uuid: what the driver calls a GPU.
        tf32: whether it has TF32.
        stack_size: the most networks that it evaluates side by side.
    """

    torch_version: str
    numpy_version: str
    device_kind: str
    device_name: str
    memory_bytes: int
    device_uuid: str = ""
    tf32: bool = False
    stack_size: int = 1


class Engine(Protocol):
    """What a worker evaluates with, once it has loaded."""

    @property
    def hello(self) -> Hello:
        """What this is."""
        ...

    def evaluate_stacks(
        self, architectures: Sequence[Architecture], proxies: Sequence[str], config: EvaluationConfig
    ) -> Iterator[Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]]:
        """Evaluates a batch and yields results, with their places in the batch, as stacks finish."""
        ...

    @property
    def pass_seconds(self) -> Mapping[str, float]:
        """Seconds that each pass took, by name, since the last batch began."""
        ...

    def memory(self) -> Memory:
        """The memory in use. Called by any thread, and not while a batch is evaluated by another one."""
        ...

    def check(self) -> None:
        """Raises if the process can compute no more. Asked after an evaluation that raised."""
        ...

    def rest(self) -> None:
        """Gives back the memory that it only keeps for the next batch, since none has come for a while."""
        ...


#: Loads an engine for a kind of device, a number of CPU threads and a data directory. Sent by name: a function or class
#: of a module.
LoadEngine = Callable[[str, int, Path | None], Engine]


@dataclass(frozen=True, slots=True)
class Start:
    """To a worker, first of all: load an engine. It answers Hello or StartFailed.

    Attributes:
        load: loads it.
        device: what it is to compute on.
        threads: CPU threads of an operation.
        data_dir: directory with the real datasets.
        beat: seconds between two signs of life, from now on.
        log: how the front end logs.
    """

    load: LoadEngine
    device: str
    threads: int
    data_dir: Path | None
    beat: float
    log: logs.Settings | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life of a worker that starts, waits or computes, and what memory it uses where it has looked."""

    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The engine cannot be loaded; the worker ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Results:
    """Stacks of the running batch have finished: places in the batch, and evaluations."""

    results: Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]


@dataclass(frozen=True, slots=True)
class BatchDone:
    """The batch is over, after so many seconds, so many of them in each pass."""

    seconds: float
    pass_seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class BatchFailed:
    """The batch raised; the worker waits for the next one."""

    message: str


@dataclass(frozen=True, slots=True)
class DeviceBroken:
    """The batch raised, and this process can compute no more: it ends."""

    message: str


def encode(message: object) -> bytes:
    """A message as it travels."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def receive(stream: BinaryIO) -> Any:
    """Reads one message, blocking.

    Raises:
        EOFError: the other side is gone.
    """
    body = _read(stream, *_LENGTH.unpack(_read(stream, _LENGTH.size)))
    return pickle.loads(body)  # noqa: S301 -- from our own parent


async def receive_async(stream: asyncio.StreamReader) -> Any:
    """Reads one message.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    return pickle.loads(await stream.readexactly(length))  # noqa: S301 -- from our own child


def _read(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
