"""Utilisation of GPUs, over a stand-in for NVML."""

from __future__ import annotations

import asyncio
import sys
import threading
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from archscore.spaces import nasbench201
from archscore_server.metrics import Metrics
from archscore_server.pool import DeviceInfo, PoolInfo
from support.serving import TIMEOUT, Serving, one

CELL = nasbench201.from_index(6111).format()


class Nvml:
    """Two GPUs, of which the second is lost."""

    def __init__(self, *, driver: bool = True) -> None:
        self.driver = driver

    def nvmlInit(self) -> None:  # noqa: N802 -- NVML's name
        if not self.driver:
            raise OSError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802 -- NVML's name
        return ["GPU-a", "GPU-b"].index(uuid)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802 -- NVML's name
        if handle != 0:
            raise OSError("GPU is lost")
        return SimpleNamespace(gpu=37, memory=1)


def info(*uuids: str) -> PoolInfo:
    return PoolInfo("2", "1", tuple(DeviceInfo("cuda", "H100", 1, 1, 2**36) for _ in uuids), uuids)


def utilization(metrics: Metrics) -> dict[str, float]:
    [family] = [family for family in metrics.registry.collect() if family.name == "archscore_device_utilization_ratio"]
    return {sample.labels["device"]: sample.value for sample in family.samples}


def test_each_gpu_has_its_own_and_one_that_is_lost_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    metrics = Metrics()
    assert utilization(metrics) == {}
    metrics.pool_started(info("a", "b"))
    assert utilization(metrics) == {"0": 0.37}


@pytest.mark.parametrize("nvml", [None, Nvml(driver=False)], ids=["not installed", "no driver"])
def test_there_is_none_without_nvml(monkeypatch: pytest.MonkeyPatch, nvml: Nvml | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    metrics = Metrics()
    metrics.pool_started(info("a"))
    assert utilization(metrics) == {}


def test_a_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    metrics = Metrics()
    metrics.pool_started(PoolInfo("2", "1", (DeviceInfo("cpu", "a CPU", 2, 1, 2**36),)))
    assert utilization(metrics) == {}


class Failing(Nvml):
    """One that fails in one of its functions once it is told to."""

    def __init__(self, function: str, failure: Callable[[], Any]) -> None:
        super().__init__()
        self.fails = False

        def call(*arguments: Any) -> Any:
            return failure() if self.fails else working(*arguments)

        working = getattr(self, function)
        setattr(self, function, call)


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUtilizationRates"])
@pytest.mark.parametrize(
    "failure",
    [
        lambda: _raise(OSError("Unknown Error")),
        lambda: _raise(RuntimeError("GPU is lost")),
        lambda: SimpleNamespace(gpu=None),
    ],
    ids=["driver", "library", "nonsense"],
)
async def test_one_that_fails_while_the_server_runs_costs_its_figures_and_nothing_else(
    served: Serving, monkeypatch: pytest.MonkeyPatch, function: str, failure: Callable[[], Any]
) -> None:
    nvml = Failing(function, failure)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    served.server.metrics.pool_started(info("a"))
    ratio = 'archscore_device_utilization_ratio{device="0"}'
    for fails in (False, True, False):  # the last: a driver that is there again
        nvml.fails = fails
        await served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)
        page = await asyncio.to_thread(_page, served)
        assert (f"{ratio} 0.37" in page) != fails
        assert "archscore_rpcs_total" in page


async def test_one_that_hangs_keeps_only_the_page_waiting(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hang() -> Any:
        asked.set()
        go_on.wait(TIMEOUT)
        raise OSError("Timeout")

    nvml = Failing("nvmlDeviceGetUtilizationRates", hang)
    nvml.fails = True
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    served.server.metrics.pool_started(info("a"))
    reading = asyncio.create_task(asyncio.to_thread(_page, served))
    try:
        assert await asyncio.to_thread(asked.wait, TIMEOUT)
        await served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)
    finally:
        go_on.set()
    assert "archscore_rpcs_total" in await reading


def _page(served: Serving) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.server.metrics_port}/metrics", timeout=TIMEOUT) as response:
        return str(response.read().decode())
