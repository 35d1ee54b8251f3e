"""Passes about the gradients of single samples."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
import torch
from torch import Tensor

from archscore_server.engine._device import indices
from archscore_server.engine.networks import Mode, NormState, Observer, Stack
from archscore_server.engine.passes._context import Context
from archscore_server.engine.readings import Later
from archscore_server.engine.statistics import Labels, Statistic

#: Images that the neural tangent kernel is taken over, at most.
_KERNEL_IMAGES = 16


def jacobian_pass(context: Context, needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Train-mode forward on minibatch 0, and the gradient of the sum of all logits with respect to each image.

    In float64 where EPE-NAS asks: it takes logarithms of correlations close to 0, and those of float32 gradients are
    noise (one network missed its reference by 1.4%).
    """
    stack = context.stack
    results: dict[str, Later[Statistic]] = {}
    dtype = context.dtype
    if "labels" in needs:
        classes = context.config.num_classes
        results["labels"] = stack.readings.read(context.labels(), lambda read: Labels(read.astype(np.int64), classes))
        dtype = torch.float64
    if "jacobian_correlation" in needs:
        images = context.images(own=True, dtype=dtype).requires_grad_()
        with torch.no_grad():  # no gradients of theirs are wanted
            weights = stack.weights(dtype)
        logits = stack.forward(images, weights, Mode.TRAIN, Observer())
        (jacobian,) = torch.autograd.grad(logits.sum(), images)
        rows = jacobian.double().unflatten(1, (stack.networks, 3)).transpose(0, 1).flatten(2)  # [A, N, 3*R*R]
        centred = rows - rows.mean(dim=2, keepdim=True)
        unit = centred / torch.linalg.vector_norm(centred, dim=2, keepdim=True)
        correlation: Tensor = (unit @ unit.mT).clamp(-1, 1)
        correlation.diagonal(dim1=1, dim2=2).copy_(unit[..., 0] * 0 + 1)  # exactly 1, or NaN for a constant row
        results["jacobian_correlation"] = stack.read(correlation)
    return results


def ntk_pass(context: Context, _needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Gram matrix of the gradients of each image's logits, on the first images of minibatch 0 as a train-mode batch.

    BatchNorm couples the images, so each image takes a backward pass over all of them. The gradients are with respect
    to the weights of convolutions, linear layers and BatchNorm.
    """
    stack = context.stack
    images = context.images()[:_KERNEL_IMAGES].contiguous(memory_format=torch.channels_last)
    weights = stack.weights(context.dtype)
    scales = _ScaleObserver(stack, context.dtype)
    logits = stack.forward(images, weights, Mode.TRAIN, scales, plain=True)
    leaves = [*weights.leaves.values(), *(scale for _, scale in scales.scales)]
    owners = [*stack.owners().values(), *(networks for networks, _ in scales.scales)]
    rows: list[list[Tensor]] = [[] for _ in leaves]
    for objective in logits.sum(dim=(0, 2)):
        gradients = torch.autograd.grad(objective, leaves, retain_graph=True, materialize_grads=True)
        for own, gradient in zip(rows, gradients, strict=True):
            own.append(gradient)
    kernel = torch.zeros(stack.networks, len(images), len(images), dtype=torch.float64, device=stack.device)
    for own, networks in zip(rows, owners, strict=True):
        per_image = torch.empty(len(own), *own[0].shape, dtype=torch.float64, device=stack.device)
        for place, gradient in zip(per_image, own, strict=True):
            place.copy_(gradient)
        per_unit = per_image.view(len(own), len(networks), -1).transpose(0, 1)  # [U, images, ...]
        kernel.index_add_(0, indices(networks, stack.device), per_unit @ per_unit.mT)
    return {"tangent_kernel": stack.read(kernel)}


class _ScaleObserver(Observer):
    """Gives every BatchNorm a weight to differentiate by."""

    def __init__(self, stack: Stack, dtype: torch.dtype) -> None:
        self._stack = stack
        self._dtype = dtype
        self.scales: list[tuple[list[int], Tensor]] = []  # networks, [U*C]

    def norm(self, networks: Sequence[int], channels: int) -> NormState:
        scale = torch.ones(channels, dtype=self._dtype, device=self._stack.device, requires_grad=True)
        self.scales.append((list(networks), scale))
        return NormState(weight=scale)
