"""What is kept on devices, and how it gets there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archscore_server.engine._cache import ByteCache

V = TypeVar("V")

#: Bytes, at most, that go through pinned memory at a time: torch gives nothing of it back.
PINNED_BYTES = 16 * 2**20


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device. It belongs to the tensor from then on: on the CPU they share memory.

    A GPU copies it when it comes to it, and nobody waits: torch keeps pinned memory until the copy has been made. What
    is too large for that CUDA copies through memory of its own, and the host may have to wait.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    if array.nbytes <= PINNED_BYTES:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def indices(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Integers on a device, int64.

    (`torch.tensor` would wait for all that is queued there.)
    """
    return to_device(np.array(numbers, dtype=np.int64), device)


def resolved(device: torch.device | str) -> torch.device:
    """A device with its number: a GPU without one is the current one, whichever that is now."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one: streams and events of torch are the current one's where none is named."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """What a GPU, the current one, is given within is computed beside all that was queued before.

    It may read only what the host knows to have been computed.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(_stream(device)):
        yield


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One stream a device: torch keeps memory for each."""
    return torch.cuda.Stream(device)


class Timer:
    """Times what runs on a device, on a GPU the current one, while it is entered, and makes nobody wait for that."""

    def __init__(self, device: torch.device) -> None:
        """Not entered yet."""
        self._cuda = device.type == "cuda"
        self._times: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def __enter__(self) -> Self:
        """Starts."""
        self._note()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends."""
        self._note()

    def _note(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def seconds(self) -> float:
        """Seconds that it took. On a GPU to be called when that is known to have run."""
        if self._cuda:
            first, last = self._events
            return float(first.elapsed_time(last)) / 1e3
        first_time, last_time = self._times
        return last_time - first_time


class DeviceCache(Generic[V]):
    """A `ByteCache` for each device."""

    def __init__(self, max_bytes: int) -> None:
        """Starts empty; the bound is that of each device."""
        self._max_bytes = max_bytes
        self._caches: dict[torch.device, ByteCache[V]] = {}

    def on(self, device: torch.device) -> ByteCache[V]:
        """What is kept on a device."""
        return self._caches.setdefault(resolved(device), ByteCache(self._max_bytes))
