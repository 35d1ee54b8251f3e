"""Sums of maps, their BatchNorm and their ReLU in one differentiable step, by the kernels for CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from archscore_server.engine import kernels
from archscore_server.engine.networks._stack import LayerCall


@dataclass(slots=True)
class Part:
    """A map that is to be added up with others.

    Attributes:
        map: [N, C, H, W].
        normalised: whether BatchNorm comes first.
        coded: the call that it is the output of, if its codes (before BatchNorm) are wanted.
        alone: whether nobody else reads the map.
    """

    map: Tensor
    normalised: bool = False
    coded: LayerCall | None = None
    alone: bool = False


@dataclass(slots=True)
class Join:
    """One sum, and what became of it.

    Attributes:
        parts: what is added up.
        plain: how many read the sum.
        rectified: how many read its positive part.
        coded: whether the codes of the sum are wanted.
        eps: BatchNorm's.
        uses_up: whether the memory of maps may be taken for what comes of them, by the derivative or without one.
        codes: of the sum, uint8 [N, bytes].
        part_codes: of each part that is coded.
        statistics: of each part that is normalised, [kernels.STATISTICS, period].
    """

    parts: Sequence[Part]
    plain: int
    rectified: int
    coded: bool
    eps: float
    uses_up: bool
    codes: Tensor | None = None
    part_codes: list[Tensor | None] = field(default_factory=list)
    statistics: list[Tensor | None] = field(default_factory=list)

    def run(self) -> tuple[Tensor, ...]:
        """What each reader reads: first those of the sum, then those of its positive part, [N, C, H, W] each."""
        maps = [part.map for part in self.parts]
        if torch.is_grad_enabled() and self.plain + self.rectified:
            return _join(self, *maps)
        total, rectified = self.compute([own.detach() for own in maps], uses_up=self.uses_up)
        return (total,) * self.plain + (rectified,) * self.rectified  # type: ignore[return-value]

    def compute(self, maps: Sequence[Tensor], *, uses_up: bool) -> tuple[Tensor | None, Tensor | None]:
        """The sum and its positive part, where they are read; in the memory of maps if these are used up."""
        maps = [dense(own) for own in maps]
        shape = maps[0].shape
        alone = len(maps) == 1 and not self.parts[0].normalised
        spare = [own for own, part in zip(maps, self.parts, strict=True) if part.alone] if uses_up else []
        total = rectified = None
        if alone:
            total = maps[0]
        elif self.plain:  # the sum may take the place of the first part, its positive part that of any other
            total = spare.pop(0) if spare and spare[0] is maps[0] else torch.empty_like(maps[0])
        if self.rectified:
            rectified = spare.pop() if spare and not (alone and self.plain) else torch.empty_like(maps[0])
        coded = (shape[0], kernels.code_bytes(shape[1:].numel()))
        period = kernels.period(shape[1])
        self.statistics = [torch.empty(kernels.STATISTICS, period) if part.normalised else None for part in self.parts]
        self.codes = torch.empty(coded, dtype=torch.uint8) if self.coded else None
        self.part_codes = [torch.empty(coded, dtype=torch.uint8) if part.coded else None for part in self.parts]
        kernels.join(
            maps,
            self.statistics,
            eps=self.eps,
            total=None if alone else total,
            rectified=rectified,
            codes=self.codes,
            map_codes=self.part_codes,
            threads=torch.get_num_threads(),
        )
        return total if self.plain else None, rectified


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, join: Join, *maps: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        total, rectified = join.compute(maps, uses_up=False)
        normalised = [own for own, part in zip(maps, join.parts, strict=True) if part.normalised]
        ctx.normalised = [part.normalised for part in join.parts]
        ctx.statistics = [own for own in join.statistics if own is not None]
        ctx.plain = join.plain
        ctx.uses_up = join.uses_up
        ctx.save_for_backward(*normalised, *([] if rectified is None else [rectified]))
        plain = [] if total is None else [total.view_as(total) for _ in range(join.plain)]
        positive = [] if rectified is None else [rectified.view_as(rectified) for _ in range(join.rectified - 1)]
        return (*plain, *([] if rectified is None else [rectified]), *positive)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        of_total = [dense(own) for own in gradients[: ctx.plain] if own is not None]
        of_rectified = [dense(own) for own in gradients[ctx.plain :] if own is not None]
        if not of_total and not of_rectified:
            return (None, *(None for _ in ctx.normalised))
        saved = ctx.saved_tensors
        count = sum(ctx.normalised)
        maps, mask = [dense(own) for own in saved[:count]], saved[-1] if of_rectified else None
        alone = len(of_total) == 1 and not of_rectified
        if ctx.uses_up and of_rectified:
            gradient = of_rectified[0]
        else:
            gradient = of_total[0] if alone else torch.empty_like((of_total or of_rectified)[0])
        of_maps = maps if ctx.uses_up else [torch.empty_like(own) for own in maps]
        if count or not alone:
            kernels.unjoin(
                of_total=of_total,
                of_rectified=of_rectified,
                mask=mask,
                maps=maps,
                statistics=ctx.statistics,
                gradient=gradient,
                gradients=of_maps,
                factors=torch.empty(count, 3, kernels.period(gradient.shape[1])),
                threads=torch.get_num_threads(),
            )
        remaining = iter(of_maps)
        return (None, *(next(remaining) if normalised else gradient for normalised in ctx.normalised))


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, features: Tensor) -> Tensor:
        return _pooled(features, backward=False)

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _pooled(gradient, backward=True)


_join: Callable[..., tuple[Tensor, ...]] = _Join.apply
pool: Callable[[Tensor], Tensor] = _Pool.apply
"""3x3 average pooling, stride 1, padding 1, where the padding does not count; [N, C, H, W] -> [N, C, H, W]."""


def dense(features: Tensor) -> Tensor:
    """The same, as the kernels want it."""
    return features.contiguous(memory_format=torch.channels_last)


def overlaps(codes: Tensor) -> Tensor:
    """c_i . c_j for all pairs of samples, [1, N, N]; codes as `Join` leaves them."""
    result = torch.empty(len(codes), len(codes), dtype=torch.int32)
    kernels.overlaps(codes, result, threads=torch.get_num_threads())
    return result[None]


def _pooled(features: Tensor, *, backward: bool) -> Tensor:
    features = dense(features)
    result = torch.empty_like(features)
    rows, columns = (_shares(length) for length in features.shape[2:])
    kernels.pool(features, result, rows, columns, backward=backward, threads=torch.get_num_threads())
    return result


@lru_cache(maxsize=64)
def _shares(length: int) -> Tensor:
    """One over the number of neighbours that lie inside, [length]."""
    return torch.tensor([1 / (1 + (place > 0) + (place < length - 1)) for place in range(length)])
