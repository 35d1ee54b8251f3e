"""Arrays on devices, and what is kept there."""

import numpy as np
import pytest
import torch

from archscore_server.engine import _device
from archscore_server.engine._device import DeviceCache, Timer, aside, to_device


def test_a_cpu_shares_the_array() -> None:
    array = np.arange(6.0).reshape(2, 3)
    tensor = to_device(array, torch.device("cpu"))
    array[1, 2] = 7
    assert torch.equal(tensor, torch.tensor([[0.0, 1, 2], [3, 4, 7]], dtype=torch.float64))


def test_a_cpu_is_timed_by_the_clock_and_has_nothing_beside() -> None:
    with Timer(torch.device("cpu")) as timer, aside(torch.device("cpu")):
        assert torch.ones(2).sum() == 2
    assert timer.seconds() > 0


def test_each_device_has_a_bound_of_its_own() -> None:
    cache: DeviceCache[str] = DeviceCache(10)
    devices = [torch.device(name) for name in ("cpu", "meta", "cuda:0", "cuda:1")]
    for device in devices:
        cache.on(device).put("key", str(device), 10)
    assert [cache.on(device).get("key") for device in devices] == ["cpu", "meta", "cuda:0", "cuda:1"]


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which GPU is the current one, as its last entry says."""
    current = [0]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    return current


def test_a_gpu_without_a_number_is_the_current_one(current: list[int]) -> None:
    cache: DeviceCache[str] = DeviceCache(10)
    cache.on(torch.device("cuda")).put("key", "first", 1)
    current.append(1)
    assert cache.on(torch.device("cuda")).get("key") is None
    assert cache.on(torch.device("cuda:0")).get("key") == "first"


@pytest.mark.gpu
@pytest.mark.parametrize("most", [0, 2**24], ids=["pageable", "pinned"])
def test_a_gpu_gets_what_was_there_when_it_was_called(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(_device, "_PINNED_BYTES", most)
    expected, tensors = [], []
    for number in range(50):
        array = np.full(100_000, number, dtype=np.float32)
        tensors.append(to_device(array, torch.device("cuda")))
        array[:] = -1
        expected.append(number)
    assert [tensor.unique().tolist() for tensor in tensors] == [[number] for number in expected]
