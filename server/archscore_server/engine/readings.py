"""What the host learns from a device: all that a stack yields in one transfer, when everything has been queued."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from archscore_server.engine._device import PINNED_BYTES, aside
from archscore_server.engine.statistics import Array

T = TypeVar("T")

Later: TypeAlias = Callable[[], T]
"""What is known later: on a GPU, once the host has waited for it; not to be called before."""


class Readings:
    """Numbers on a device that the host will read.

    A GPU, the current one, is given all the work of a stack without being waited for once: what is to be read is
    gathered, sent in one transfer behind that work, and waited for at the end. On a CPU it is read at once.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is to be read yet."""
        self._device = device
        self._awaited: list[Tensor] = []
        self._shapes: list[torch.Size] = []
        self._sent = torch.empty(0)
        self._arrival: torch.cuda.Event | None = None
        self._read: list[Array] = []

    def read(self, values: Tensor, finish: Callable[[Array], T]) -> Later[T]:
        """Has numbers read.

        Args:
            values: what to read; float64 holds all of them.
            finish: makes of them, float64 of the same shape, what is wanted. It may wait for the device again.

        Returns:
            What `finish` returns.
        """
        values = values.detach()
        if self._device.type != "cuda":
            found = finish(np.asarray(values.double().cpu().numpy()))
            return lambda: found
        place = len(self._awaited)
        self._awaited.append(values)
        return lambda: finish(self._read[place])

    def send(self) -> None:
        """Queues the transfer of all that is to be read."""
        if self._device.type != "cuda":
            return
        if self._awaited:
            self._sent = torch.cat([values.reshape(-1).double() for values in self._awaited])
            self._shapes = [values.shape for values in self._awaited]
            self._awaited.clear()
            if self._sent.nbytes <= PINNED_BYTES:
                pinned = torch.empty(self._sent.shape, dtype=self._sent.dtype, pin_memory=True)
                self._sent = pinned.copy_(self._sent, non_blocking=True)
        # Also where there is nothing to read: who waits wants to know that all has been computed.
        self._arrival = torch.cuda.Event()
        self._arrival.record()

    def wait(self) -> None:
        """Waits for the transfer, and for nothing that was queued after it."""
        if self._arrival is None:
            return
        self._arrival.synchronize()
        if self._sent.is_cuda:  # more than goes through pinned memory
            with aside(self._device):
                numbers = self._sent.cpu().numpy()
        else:
            numbers = self._sent.numpy().copy()  # the pinned memory is wanted for the next transfer
        sizes = [math.prod(shape) for shape in self._shapes]
        parts = np.split(numbers, np.cumsum(sizes)[:-1]) if sizes else []
        self._read = [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        self._sent = torch.empty(0)
