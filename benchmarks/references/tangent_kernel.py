"""The neural tangent kernel with ordinary PyTorch: a loop over the images, and backward passes batched by vmap.

The network is the plain loop's, so the condition numbers can be compared with archscore's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from archscore.spaces.nasbench201 import Cell
from references import plain_loop

#: Images of the kernel, as archscore takes them.
IMAGES = 16


def condition_number(
    cell: Cell,
    *,
    batched: bool,
    channels: int,
    cells_per_stage: int,
    batch_size: int,
    resolution: int,
    num_classes: int,
    seed: int,
    images: int = IMAGES,
) -> float:
    """Largest over smallest eigenvalue of the kernel of the minibatch's first images, as one train-mode batch.

    Args:
        cell: a connected cell.
        batched: whether all backward passes run as one (`is_grads_batched`), not one after the other.
        channels: C of the network.
        cells_per_stage: N of the network.
        batch_size: images of the minibatch.
        resolution: side of an image in pixels.
        num_classes: classes of the classifier.
        seed: seed of weights and data.
        images: how many of the minibatch the kernel is of.
    """
    network = plain_loop.Network(
        cell.operations, channels=channels, cells_per_stage=cells_per_stage, num_classes=num_classes, seed=seed
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    minibatch, _ = plain_loop.minibatch(seed, batch_size, resolution, num_classes)
    weights = [
        module.weight for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    ]
    objectives = network(minibatch[:images].contiguous(memory_format=torch.channels_last)).sum(dim=1)
    rows = _batched(objectives, weights) if batched else _loop(objectives, weights)
    values = torch.linalg.eigvalsh(rows @ rows.T)
    return float(values[-1] / values[0])


def _loop(objectives: Tensor, weights: list[Tensor]) -> Tensor:
    """Gradients of each objective, [images, all weights] in float64."""
    rows = []
    for objective in objectives:
        gradients = torch.autograd.grad(objective, weights, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows).double()


def _batched(objectives: Tensor, weights: list[Tensor]) -> Tensor:
    """The same, all at once."""
    selectors = torch.eye(len(objectives))
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        objectives, weights, selectors, is_grads_batched=True, allow_unused=True
    )
    return torch.cat([gradient.flatten(1) for gradient in gradients if gradient is not None], dim=1).double()
