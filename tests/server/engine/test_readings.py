"""What is read of a device. On a GPU: tests/simulated_cuda."""

import numpy as np
import pytest
import torch

from archscore_server.engine.readings import Readings

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([[1.5, 2.0], [torch.inf, torch.nan]]),
        torch.arange(6).view(1, 2, 3),
        torch.tensor(2.5),
        torch.empty(0),
    ],
)
def test_numbers_come_as_float64_of_the_same_shape(values: torch.Tensor) -> None:
    readings = Readings(CPU)
    later = readings.read(values, lambda read: read)
    readings.send()
    readings.wait()
    found = later()
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, values.double().numpy())


def test_a_cpu_is_read_at_once_and_what_it_holds_is_free() -> None:
    readings = Readings(CPU)
    values = torch.ones(3)
    later = readings.read(values, lambda read: float(read.sum()))
    values.zero_()
    assert later() == 3


def test_numbers_that_gradients_pass_through() -> None:
    leaf = torch.ones(2, requires_grad=True)
    assert Readings(CPU).read(leaf * 2, list)() == [2, 2]
