"""What the host learns from a device: all that a stack yields in one transfer, when everything has been queued."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from archscore_server.engine.statistics import Array

T = TypeVar("T")

Later: TypeAlias = Callable[[], T]
"""What is known later: on a GPU, once the host has waited for it; not to be called before."""


class Readings:
    """Numbers on a device that the host will read.

    A GPU is given all the work of a stack without being waited for once: what is to be read is gathered, sent in one
    transfer behind that work, and waited for at the end. On a CPU it is read at once.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is to be read yet."""
        self._device = device
        self._awaited: list[Tensor] = []
        self._sent: Tensor | None = None
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
        if not self._awaited:
            return
        numbers = torch.cat([values.reshape(-1).double() for values in self._awaited])
        self._sent = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        self._sent.copy_(numbers, non_blocking=True)
        self._arrival = torch.cuda.Event()
        self._arrival.record()

    def wait(self) -> None:
        """Waits for the transfer, and for nothing that was queued after it."""
        if self._sent is None or self._arrival is None:
            return
        self._arrival.synchronize()
        shapes = [values.shape for values in self._awaited]
        self._awaited.clear()
        # (a copy: the pinned memory is wanted for the next transfer)
        parts = np.split(self._sent.numpy().copy(), np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        self._read = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        self._sent = None
