"""Minibatches on devices: each is drawn and moved once, whatever the number of passes and stacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from archscore_server.engine._device import DeviceCache, to_device
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.data import minibatch, minibatch_key
from archscore_server.engine.datasets import Dataset

#: Bytes of minibatches that are kept on a device: some dozens of the default size.
CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class DeviceMinibatch:
    """A minibatch on a device. It is shared: nothing may write to its tensors or make them require gradients.

    Attributes:
        images: [B, 3, R, R], float32 in channels_last memory.
        labels: [B], int64.
    """

    images: Tensor
    labels: Tensor


class RecentMinibatches:
    """Recent minibatches, kept up to a number of bytes on each device."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        """Starts with none; the bound is that of each device."""
        self._kept: DeviceCache[DeviceMinibatch] = DeviceCache(max_bytes)

    def get(
        self, config: EvaluationConfig, seed: int, index: int, dataset: Dataset | None, device: torch.device
    ) -> DeviceMinibatch:
        """What `archscore_server.engine.data.minibatch` draws, on a device; raises what it raises."""
        kept, key = self._kept.on(device), minibatch_key(config, seed, index, dataset)
        found = kept.get(key)
        if found is None:
            drawn = minibatch(config, seed, index, dataset)
            with torch.inference_mode(False):  # whatever the caller's: no later gradient may pass through such a tensor
                images = to_device(drawn.images, device).contiguous(memory_format=torch.channels_last)
                found = DeviceMinibatch(images, to_device(drawn.labels, device))
            kept.put(key, found, found.images.nbytes + found.labels.nbytes)
        return found

    def nbytes(self, device: torch.device) -> int:
        """Bytes kept on a device."""
        return self._kept.on(device).nbytes

    def clear(self, device: torch.device) -> None:
        """Frees what is kept on a device."""
        self._kept.on(device).clear()


#: The minibatches of this process.
RECENT = RecentMinibatches()
