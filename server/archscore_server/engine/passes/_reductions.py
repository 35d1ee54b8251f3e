"""Numbers per weight and per channel, summed up per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from archscore_server.engine.networks import LayerCall, Shape, Stack, in_slots
from archscore_server.engine.readings import Later
from archscore_server.engine.statistics import Array, Saliency

PerWeight = Mapping[Shape, Tensor]
"""A number per weight, [U, *shape] for each shape."""


def sums(stack: Stack, per_weight: PerWeight) -> Later[Array]:
    """Sum over the weights of each layer, [A, L]."""
    return stack.spread({shape: values.double().flatten(1).sum(dim=1) for shape, values in per_weight.items()})


def norms(stack: Stack, per_weight: PerWeight) -> Later[Array]:
    """2-norm of each layer, [A, L]."""
    return stack.spread(
        {
            shape: torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)
            for shape, values in per_weight.items()
        }
    )


def saliency(stack: Stack, per_weight: PerWeight) -> Later[Saliency]:
    """Sum and population standard deviation of each layer."""
    totals, deviations = {}, {}
    for shape, values in per_weight.items():
        flat = values.double().flatten(1)
        totals[shape] = flat.sum(dim=1)
        mean = totals[shape] / flat.shape[1]
        deviations[shape] = torch.linalg.vector_norm(flat - mean[:, None], dim=1) / flat.shape[1] ** 0.5
    total, deviation = stack.spread(totals), stack.spread(deviations)
    return lambda: Saliency(total(), deviation())


def fisher(stack: Stack, outputs: Sequence[tuple[LayerCall, Tensor]], gradients: Sequence[Tensor]) -> Later[Array]:
    """Weights per output channel times the sum over channels of D_c, [A, L] (proxies.md, fisher).

    D_c is half the mean over samples of the square of the sum over positions of a * dL/da.
    """
    found: list[Tensor] = []
    for (call, a), gradient in zip(outputs, gradients, strict=True):
        per_sample = (a.detach() * gradient).sum(dim=(2, 3), dtype=torch.float64)  # [N, U*C]
        information = per_sample.square().mean(dim=0).unflatten(0, (len(call.slots), -1)).sum(dim=1) / 2
        found.append(information * math.prod(call.shape[1:]))
    slots = [slot for call, _ in outputs for slot in call.slots]
    return stack.readings.read(torch.cat(found), partial(in_slots, stack.present.shape, slots))
