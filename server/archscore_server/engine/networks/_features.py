"""Moving features between the networks of a stack and the calls that work on some of them.

Features are [N, U*C, H, W] in channels_last memory: U units side by side, each the C channels of one network (or of one
layer of one network). `deal` hands out units, `collect` adds them up again, and each is the other's derivative: so both
differentiate any number of times, and no slice's gradient is ever spread over a whole stack of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from archscore_server.engine._device import indices


class Units:
    """Some of U units, in ascending or any other order, each at most once.

    Attributes:
        of: U.
        numbers: which.
    """

    def __init__(self, of: int, numbers: Sequence[int], device: torch.device) -> None:
        """Puts the numbers on the device where they are not a plain range."""
        self.of = of
        self.numbers = tuple(numbers)
        first = self.numbers[0]
        self._is_range = self.numbers == tuple(range(first, first + len(self.numbers)))
        self._index = None if self._is_range else indices(self.numbers, device)

    def __len__(self) -> int:
        """How many."""
        return len(self.numbers)

    @property
    def all(self) -> bool:
        """Whether these are all U, in order."""
        return self._is_range and len(self.numbers) == self.of

    def read(self, features: Tensor) -> Tensor:
        """[N, U*C, H, W] -> [N, m*C, H, W]; a view where these are a plain range."""
        if self.all:
            return features
        channels = features.shape[1] // self.of
        if self._index is None:
            return features.narrow(1, self.numbers[0] * channels, len(self.numbers) * channels)
        return _from_units(_as_units(features, self.of).index_select(3, self._index))

    def add_to(self, total: Tensor, part: Tensor) -> None:
        """Adds [N, m*C, H, W] to the units of [N, U*C, H, W] that own it, in place."""
        if self._index is None:
            self.read(total).add_(part)
        else:
            _as_units(total, self.of).index_add_(3, self._index, _as_units(part, len(self.numbers)))

    def put_into(self, total: Tensor, part: Tensor) -> None:
        """Overwrites the units of [N, U*C, H, W] with [N, m*C, H, W]."""
        if self._index is None:
            self.read(total).copy_(part)
        else:
            _as_units(total, self.of).index_copy_(3, self._index, _as_units(part, len(self.numbers)))


def _as_units(features: Tensor, units: int) -> Tensor:
    """[N, U*C, H, W] -> [N, H, W, U, C], a view."""
    split: Tensor = features.permute(0, 2, 3, 1).unflatten(-1, (units, -1))
    return split


def _from_units(units: Tensor) -> Tensor:
    """[N, H, W, U, C] -> [N, U*C, H, W] in channels_last memory."""
    return units.flatten(-2).permute(0, 3, 1, 2)


def deal(features: Tensor, consumers: Sequence[Units]) -> tuple[Tensor, ...]:
    """Gives each consumer the units that it reads.

    Args:
        features: [N, U*C, H, W].
        consumers: the units that each one reads; a unit may have any number of readers.

    Returns:
        [N, m*C, H, W] for each consumer of m units.
    """
    if len(consumers) == 1 and consumers[0].all:
        return (features,)
    if not torch.is_grad_enabled():
        return tuple(own.read(features) for own in consumers)
    return _deal(features, tuple(consumers))


def collect(parts: Sequence[Tensor], owners: Sequence[Units]) -> Tensor:
    """Adds up parts, each into the units that own it; a unit without a part is 0.

    Args:
        parts: [N, m*C, H, W] each.
        owners: for each part the m units that it belongs to.

    Returns:
        [N, U*C, H, W].
    """
    if len(parts) == 1 and owners[0].all:
        return parts[0]
    if not torch.is_grad_enabled():
        return _sum(parts, owners)
    return _collect(tuple(owners), *parts)


def _sum(parts: Sequence[Tensor], owners: Sequence[Units]) -> Tensor:
    whole = [part for part, own in zip(parts, owners, strict=True) if own.all]
    partial = [(part, own) for part, own in zip(parts, owners, strict=True) if not own.all]
    if whole:
        total = whole[0] + whole[1] if len(whole) > 1 else whole[0].clone()
        for part in whole[2:]:
            total += part
    else:
        units = owners[0].of
        batch, channels, *size = parts[0].shape
        shape = (batch, channels // len(owners[0]) * units, *size)
        total = torch.empty(shape, dtype=parts[0].dtype, device=parts[0].device, memory_format=torch.channels_last)
        numbers = [number for own in owners for number in own.numbers]
        if len(set(numbers)) == len(numbers) == units:
            for part, own in partial:
                own.put_into(total, part)
            return total
        total.zero_()
    for part, own in partial:
        own.add_to(total, part)
    return total


class _Deal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, consumers: tuple[Units, ...]) -> tuple[Tensor, ...]:
        ctx.consumers = consumers
        ctx.set_materialize_grads(False)
        return tuple(features.view_as(features) if own.all else own.read(features) for own in consumers)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        reached = [(g, own) for g, own in zip(gradients, ctx.consumers, strict=True) if g is not None]
        if not reached:
            return None, None
        return collect([g for g, _ in reached], [own for _, own in reached]), None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, owners: tuple[Units, ...], *parts: Tensor) -> Tensor:
        ctx.owners = owners
        ctx.set_materialize_grads(False)
        return _sum(parts, owners)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None, *(None for _ in ctx.owners))
        return (None, *deal(gradient, ctx.owners))


_deal: Callable[..., tuple[Tensor, ...]] = _Deal.apply
_collect: Callable[..., Tensor] = _Collect.apply
