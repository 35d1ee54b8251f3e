"""What workers evaluate with on the simulated GPU. Imported by a worker before torch, which it has see the device."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from archscore_server.pool._torch_engine import TorchEngine
from simulated_cuda import loading

_FOR_EVER = ExitStack()


def load(device: str, threads: int, data_dir: Path | None) -> TorchEngine:
    """The engine of a worker that sees the simulated device; a stack has three networks at most."""
    if "torch" not in sys.modules:
        loading.load()
    from simulated_cuda.device import CUDA, simulated

    simulation = _FOR_EVER.enter_context(simulated())
    _FOR_EVER.enter_context(simulation.switched(CUDA))  # a worker sees one device
    return TorchEngine(device, threads, data_dir, stack_size=3)
