"""SynFlow's pass: the linearised network on an all-ones image."""

from __future__ import annotations

from collections.abc import Set

import torch

from archscore_server.engine.networks import Mode, Observer
from archscore_server.engine.passes._context import Context
from archscore_server.engine.passes._reductions import saliency
from archscore_server.engine.readings import Later
from archscore_server.engine.statistics import Statistic


def synflow_pass(context: Context, _needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Forward and backward in float64, with absolute weights and without BatchNorm; the objective sums the logits."""
    stack, side = context.stack, context.config.resolution
    weights = stack.weights(torch.float64, absolute=True)
    image = torch.ones(1, 3, side, side, dtype=torch.float64, device=stack.device)
    objective = stack.forward(image, weights, Mode.LINEAR, Observer()).sum()
    gradients = torch.autograd.grad(objective, list(weights.leaves.values()), materialize_grads=True)
    leaves = zip(weights.leaves.items(), gradients, strict=True)
    return {"synflow": saliency(stack, {shape: (leaf.detach() * g).abs_() for (shape, leaf), g in leaves})}
