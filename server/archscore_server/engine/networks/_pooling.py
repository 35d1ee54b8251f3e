"""Average pooling with stride 1, in the form that suits the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def avg_pool_3x3(features: Tensor) -> Tensor:
    """3x3 average pooling, stride 1, padding 1, where the padding does not count; [N, C, H, W] -> [N, C, H, W].

    On a CPU in float32 it is a depthwise convolution and a correction at the borders, several times as fast as torch's
    pooling.
    """
    if features.device.type != "cpu" or features.dtype != torch.float32:
        return F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)
    return _pool(features)


class _Pool(torch.autograd.Function):
    """The mean over neighbours: K x / n, K the sum over the 3x3 neighbourhood and n the neighbours that lie inside."""

    @staticmethod
    def forward(_: Any, features: Tensor) -> Tensor:
        pooled = _neighbour_sums(features, 1 / 9)
        for dim in (2, 3):
            length = pooled.shape[dim]
            if length == 1:
                pooled *= 3
            else:
                for border in (0, length - 1):
                    pooled.select(dim, border).mul_(1.5)
        return pooled

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _pool_backward(gradient)


class _PoolBackward(torch.autograd.Function):
    """Its derivative, K (g / n), since K is symmetric; the derivative of that is the pooling again."""

    @staticmethod
    def forward(_: Any, gradient: Tensor) -> Tensor:
        return _neighbour_sums(gradient * _inverse_counts(*gradient.shape[2:]), 1.0)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _pool(gradient)


_pool: Callable[[Tensor], Tensor] = _Pool.apply
_pool_backward: Callable[[Tensor], Tensor] = _PoolBackward.apply


def _neighbour_sums(features: Tensor, factor: float) -> Tensor:
    """A factor times the sum over each entry's 3x3 neighbourhood."""
    channels = features.shape[1]
    return F.conv2d(features, torch.full((channels, 1, 3, 3), factor), padding=1, groups=channels)


@lru_cache(maxsize=16)
def _inverse_counts(height: int, width: int) -> Tensor:
    """One over the number of neighbours that lie inside, [H, W]."""
    return 1 / _neighbour_sums(torch.ones(1, 1, height, width), 1.0)[0, 0]
