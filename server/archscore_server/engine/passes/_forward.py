"""Passes without gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set

import torch
from torch import Tensor

from archscore_server.engine._device import indices
from archscore_server.engine.config import Init
from archscore_server.engine.networks import Mode, NormState, Observer, Stack
from archscore_server.engine.observation import Observation
from archscore_server.engine.passes._context import Context
from archscore_server.engine.readings import Later
from archscore_server.engine.statistics import Statistic

#: How far the second input of Zen is from the first.
_STEP = 0.01

#: The running variance of a BatchNorm that was fed zeros twice, from 1 with momentum 0.1.
_SILENT_VARIANCE = 0.81


@torch.no_grad()
def eval_pass(context: Context, _needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Eval-mode forward on minibatch 0."""
    observed = Observation(context.stack, layers=True)
    context.stack.forward(context.images(), context.stack.weights(context.dtype), Mode.EVAL, observed)
    return {"logdet_eval": observed.logdet_layers()}


@torch.no_grad()
def zen_pass(context: Context, _needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Two train-mode forwards of a network with normal weights, on Gaussian images and their neighbours."""
    stack = context.stack
    weights = stack.weights(context.dtype, init=Init.NORMAL)
    images = context.images(0, gaussian=True)
    observed = _ZenObserver(stack, context.dtype)
    stack.forward(images, weights, Mode.TRAIN, observed)
    observed.restart()
    stack.forward(images + _STEP * context.images(1, gaussian=True), weights, Mode.TRAIN, observed)
    return {"zen": stack.read(observed.score())}


class _ZenObserver(Observer):
    """Keeps pre-GAP features and the running variances of every BatchNorm."""

    def __init__(self, stack: Stack, dtype: torch.dtype) -> None:
        self._stack = stack
        self._dtype = dtype
        self._features: list[Tensor] = []
        self._norms: list[tuple[list[int], Tensor, Tensor]] = []  # networks, running mean, running variance
        self._next = 0
        self._silent = torch.zeros(stack.networks, dtype=torch.float64, device=stack.device)

    def restart(self) -> None:
        """The same layers come again, in the same order."""
        self._next = 0
        self._silent.zero_()

    def norm(self, networks: Sequence[int], channels: int) -> NormState:
        if self._next == len(self._norms):
            mean = torch.zeros(channels, dtype=self._dtype, device=self._stack.device)
            self._norms.append((list(networks), mean, torch.ones_like(mean)))
        _, mean, variance = self._norms[self._next]
        self._next += 1
        return NormState(running_mean=mean, running_var=variance)

    def silent(self, network: int, size: int) -> None:
        del size
        self._silent[network] += 1

    def features(self, features: Tensor) -> None:
        self._features.append(features)

    def score(self) -> Tensor:
        """Log mean distance of the features, plus half the log of each BatchNorm's mean variance; [A]."""
        first, second = self._features
        moved = (first - second).abs().unflatten(1, (self._stack.networks, -1))  # [N, A, C, H, W]
        total: Tensor = moved.sum(dim=(2, 3, 4), dtype=torch.float64).mean(dim=0).log()
        total += self._silent * math.log(_SILENT_VARIANCE) / 2
        for networks, _, variance in self._norms:
            logs = variance.double().unflatten(0, (len(networks), -1)).mean(dim=1).log() / 2
            total.index_add_(0, indices(networks, total.device), logs)
        return total
