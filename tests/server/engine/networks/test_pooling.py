"""Average pooling agrees with torch's in every form."""

import pytest
import torch
import torch.nn.functional as F

from archscore_server.engine.networks._pooling import avg_pool_3x3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [1, 2, 5, 16])
def test_pooling_and_its_derivative(side: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn(2, 3, side, side, dtype=dtype)
    y, expected = avg_pool_3x3(x), F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, upstream)[0] for out in (y, expected)))


def test_the_derivative_differentiates_again() -> None:
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(avg_pool_3x3(x).square().sum(), x, create_graph=True)
    expected = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False).square().sum()
    (reference,) = torch.autograd.grad(expected, x, create_graph=True)
    torch.testing.assert_close(
        torch.autograd.grad(gradient.square().sum(), x)[0], torch.autograd.grad(reference.square().sum(), x)[0]
    )


def test_an_empty_neighbourhood_stays_exactly_zero() -> None:
    assert avg_pool_3x3(torch.zeros(1, 16, 8, 8)).eq(0).all()
