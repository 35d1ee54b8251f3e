"""Utilisation of GPUs, over a stand-in for NVML."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from archscore_server.metrics import Metrics
from archscore_server.pool import DeviceInfo, PoolInfo


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
        if handle == 1:
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
