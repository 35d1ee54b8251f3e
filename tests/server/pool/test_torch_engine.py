"""What the engine tells of a GPU's memory, over a stand-in for torch's allocator for CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from archscore.spaces import nasbench201
from archscore_server.engine import EvaluationConfig
from archscore_server.metrics import Metrics
from archscore_server.pool._torch_engine import TorchEngine
from archscore_server.pool.worker import memory_of, rest

SMALL = EvaluationConfig(batch_size=2, resolution=8, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1))


class Allocator:
    """Half of 100 bytes in use, 30 of them by tensors, at most 40 in the batch before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peak = 40
        self.reserved = 45
        self.broken = False
        for name, function in {
            "mem_get_info": lambda: (50, 100),
            "max_memory_allocated": lambda: self.peak,
            "memory_reserved": lambda: self.reserved,
            "empty_cache": self._empty,
            "reset_peak_memory_stats": self._reset,
        }.items():
            monkeypatch.setattr(torch.cuda, name, self._unless_broken(function))

    def _reset(self) -> None:
        self.peak = 30

    def _empty(self) -> None:
        self.reserved = 30

    def _unless_broken(self, function: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            if self.broken:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return function()

        return call


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    return Allocator(monkeypatch)


@pytest.fixture
def engine(allocator: Allocator, monkeypatch: pytest.MonkeyPatch) -> TorchEngine:
    """One that computes on the CPU, and tells of its memory as on a GPU."""
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda _: None)  # once in a process, and this one has others
    engine = TorchEngine("cpu", 1, None)
    engine._device = "cuda"
    return engine


def shown(engine: TorchEngine) -> dict[str, float | None]:
    """What becomes of it in the metrics."""
    metrics = Metrics()
    memory = memory_of(engine)
    if memory:
        metrics.worker_memory(0, "0", memory)
    value = metrics.registry.get_sample_value
    of_worker = {
        kind: value("archscore_worker_memory_bytes", {"worker": "0", "device": "0", "kind": kind})
        for kind in ("allocated", "reserved")
    }
    of_device = {kind: value(f"archscore_device_memory_{kind}_bytes", {"device": "0"}) for kind in ("used", "size")}
    return {**of_worker, **of_device}


def test_memory_of_a_gpu_is_that_of_its_allocator(engine: TorchEngine) -> None:
    assert shown(engine) == {"allocated": 40, "reserved": 45, "used": 50, "size": 100}


def test_the_most_that_tensors_took_is_that_of_the_last_batch(engine: TorchEngine, allocator: Allocator) -> None:
    engine.evaluate_stacks([nasbench201.from_index(81)], ["parameters"], SMALL)
    assert allocator.peak == 30
    assert shown(engine)["allocated"] == 30


def test_an_allocator_that_fails_costs_the_figures_and_nothing_else(engine: TorchEngine, allocator: Allocator) -> None:
    allocator.broken = True
    assert shown(engine) == {"allocated": None, "reserved": None, "used": None, "size": None}
    allocator.broken = False
    assert shown(engine)["used"] == 50


def test_at_rest_a_gpu_has_only_what_is_in_use(engine: TorchEngine) -> None:
    assert engine.memory().reserved == 45
    engine.rest()
    assert engine.memory().reserved == 30


def test_a_worker_whose_device_is_broken_goes_on_to_find_that_out(engine: TorchEngine, allocator: Allocator) -> None:
    allocator.broken = True
    rest(engine)
    assert memory_of(engine) is None
