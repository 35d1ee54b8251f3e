"""3x3 convolutions by the kernels for CPUs: Winograd's F(2x2, 3x3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from archscore_server.engine import kernels
from archscore_server.engine.networks._join import dense


def suits(x: Tensor, weight: Tensor, *, groups: int, stride: int) -> bool:
    """Whether the kernels have this convolution; x [N, in, H, W], weight [out, in / groups, k, k]."""
    return (
        weight.shape[2] == 3
        and stride == groups == 1
        and kernels.convolves(weight.shape[1], weight.shape[0], x.shape[2], x.shape[3])
    )


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = dense(x), weight.contiguous()
        ctx.save_for_backward(x, weight)
        shape = (len(x), len(weight), *x.shape[2:])
        output = torch.empty(shape, memory_format=torch.channels_last)
        kernels.convolve(x, weight, output=output, threads=torch.get_num_threads())
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        kernels.convolve(
            x, weight, gradient=dense(gradient), of_map=of_x, of_weights=of_weight, threads=torch.get_num_threads()
        )
        return of_x, of_weight


conv3x3: Callable[[Tensor, Tensor], Tensor] = _Conv3x3.apply
"""3x3 convolution, stride 1, padding 1: [N, in, H, W] and [out, in, 3, 3] -> [N, out, H, W]; differentiates once."""
