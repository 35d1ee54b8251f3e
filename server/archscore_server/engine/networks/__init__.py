"""Architectures become stacks of networks: one file a search space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from archscore.spaces import Architecture
from archscore.spaces.nasbench201 import Cell
from archscore.spaces.zennas import Genome
from archscore_server.engine import kernels
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.networks._stack import (
    LayerCall,
    Mode,
    NormState,
    Observer,
    Shape,
    Stack,
    Weights,
    in_slots,
)
from archscore_server.engine.networks.nasbench201 import NasBench201Stack
from archscore_server.engine.networks.zennas import ZenNasStack

__all__ = ["LayerCall", "Mode", "NormState", "Observer", "Shape", "Stack", "Weights", "build", "in_slots", "mixes"]

_STACKS: dict[type, Callable[[Sequence[Any], Sequence[int], EvaluationConfig, torch.device, bool], Stack]] = {
    Cell: NasBench201Stack,
    Genome: ZenNasStack,
}


def build(
    architectures: Sequence[Architecture],
    seeds: Sequence[int],
    config: EvaluationConfig,
    device: torch.device,
    *,
    single: bool | None = None,
) -> Stack:
    """A stack of connected architectures of one search space.

    Args:
        architectures: the architecture of each network.
        seeds: the seed of each network's weights.
        config: what shapes the networks.
        device: where the stack runs.
        single: whether a lone network runs by the kernels for CPUs; None where they serve it.
    """
    if single is None:
        single = kernels.serve(len(architectures), config.precision, device.type)
    return _STACKS[type(architectures[0])](architectures, seeds, config, device, single)


def mixes(architecture: Architecture) -> bool:
    """Whether architectures of this one's space stack with each other, not only with themselves."""
    return isinstance(architecture, Cell)
