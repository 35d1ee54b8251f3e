"""What is kept on devices, and how it gets there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archscore_server.engine._cache import ByteCache

V = TypeVar("V")

#: Bytes of an array, at most, that goes through pinned memory, of which torch gives nothing back.
_PINNED_BYTES = 16 * 2**20


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device. It belongs to the tensor from then on: on the CPU they share memory.

    A GPU copies it when it comes to it, and nobody waits: torch keeps pinned memory until the copy has been made, and
    of other memory CUDA makes a copy of its own first.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    if array.nbytes <= _PINNED_BYTES:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def indices(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Integers on a device, int64.

    (`torch.tensor` would wait for all that is queued there.)
    """
    return to_device(np.array(numbers, dtype=np.int64), device)


class DeviceCache(Generic[V]):
    """A `ByteCache` for each device.

    Attributes:
        max_bytes: the most that are kept on each.
    """

    def __init__(self, max_bytes: int) -> None:
        """Starts empty; the bound is that of each device."""
        self.max_bytes = max_bytes
        self._caches: dict[torch.device, ByteCache[V]] = {}

    def on(self, device: torch.device) -> ByteCache[V]:
        """What is kept on a device."""
        if device.type == "cuda" and device.index is None:  # the current one, whichever that is by then
            device = torch.device("cuda", torch.cuda.current_device())
        return self._caches.setdefault(device, ByteCache(self.max_bytes))
