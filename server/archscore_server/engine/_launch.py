"""One stack from its encodings to its scores, unless memory runs out."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence

import numpy as np
import torch

from archscore.spaces import Architecture
from archscore_server.engine import _numerics, passes
from archscore_server.engine import proxies as registry
from archscore_server.engine._device import current
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.datasets import Dataset
from archscore_server.engine.memory import USABLE_MEMORY
from archscore_server.engine.minibatches import RECENT
from archscore_server.engine.networks import build
from archscore_server.engine.statistics import Array
from archscore_server.engine.tables import TABLES

#: What a RuntimeError says that is about memory: of torch's allocator on the CPU, of C++ and of cuBLAS.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")

#: All that oneDNN says when it has no memory for itself. (What it cannot do at all it says of a primitive descriptor.)
_OUT_OF_MEMORY_ONEDNN = ("could not create a primitive", "could not create a memory object")


class Launched:
    """A stack that a GPU has been given, and may not have computed yet; a CPU has."""

    def __init__(self, running: passes.Running, proxies: Sequence[registry.Proxy], device: torch.device) -> None:
        """Notes what is to be made of the passes."""
        self._running = running
        self._proxies = proxies
        self._device = device

    def scores(self, on_pass: passes.OnPass | None = None) -> dict[str, Array] | None:
        """Waits for the stack. To be called once.

        Args:
            on_pass: as of `passes.Running.finish`.

        Returns:
            Scores by proxy, [A]; None if memory ran out, as of `launch`.
        """
        try:
            with current(self._device):
                statistics = self._running.finish(on_pass)
        except (MemoryError, RuntimeError) as error:
            if not _ran_out_of_memory(error):
                raise
        else:
            with np.errstate(all="ignore"):  # what is not finite gets an outcome that says so
                return {own.name: own.compute(*(statistics[need] for need in own.needs)) for own in self._proxies}
        del self._running
        _free(self._device)
        return None


def launch(
    architectures: Sequence[Architecture],
    seeds: Sequence[int],
    proxies: Sequence[str],
    config: EvaluationConfig,
    dataset: Dataset | None,
    device: torch.device,
    *,
    single: bool | None = None,
) -> Launched | None:
    """Has connected architectures, each with its seed, evaluated side by side.

    The error does not leave this function: its traceback would keep the tensors of the attempt alive.

    Args:
        architectures: the architecture of each network.
        seeds: the seed of each.
        proxies: names of proxies.
        config: how they are evaluated.
        dataset: where minibatches are from; None for "gaussian".
        device: where the stack runs; a GPU has a number.
        single: as of `build`.

    Returns:
        None if memory ran out, which is free again then.
    """
    wanted = [own for own in map(registry.get, proxies) if not own.static]
    needs = dict.fromkeys(need for proxy in wanted for need in proxy.needs)
    try:
        with current(device), _numerics.arithmetic(config.precision, device):
            stack = build(architectures, seeds, config, device, single=single)
            return Launched(passes.Running(stack, list(needs), config, dataset), wanted, device)
    except (MemoryError, RuntimeError) as error:
        if not _ran_out_of_memory(error):
            raise
    _free(device)
    return None


def _free(device: torch.device) -> None:
    """Frees what an attempt that ran out of memory may have left, and what is kept."""
    gc.collect()  # what cycles still hold of it
    TABLES.clear(device)
    RECENT.clear(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def usable_bytes(device: torch.device) -> int:
    """Memory that tensors of an evaluation may take, beside the weights and minibatches that are kept."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(USABLE_MEMORY * (free + unused))
    return int(USABLE_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _ran_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    message = str(error)
    return message in _OUT_OF_MEMORY_ONEDNN or any(words in message for words in _OUT_OF_MEMORY)
