"""Activation codes, their Gram matrices and log-determinants (proxies.md, Activation proxies)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from archscore_server.engine._device import aside, to_device
from archscore_server.engine.statistics import Array

#: Entries of codes that are converted to float32 at a time: few enough to stay in the cache, and to need no memory.
_CHUNK = 2048

#: Up to here all integers are float16.
_EXACT_SUM = 2048

#: K counts as singular where lambda_min <= _SINGULAR * B * lambda_max.
_SINGULAR = 16 * 2.2e-16

#: How far above the rule's threshold a lower bound of lambda_min must be for the rounding of the bound not to matter.
_MARGIN = 1e3

#: Entries of matrices that are looked at again at a time: they are few as a rule, and if not must not take much memory.
_AGAIN = 2**20


def codes(features: Tensor, units: int, *, rectified: bool = False) -> Tensor:
    """The codes of each unit and sample: 1 where an entry is positive, else 0.

    Args:
        features: [N, U*C, H, W] in channels_last memory.
        units: U.
        rectified: whether no entry is negative.

    Returns:
        int8 [U, N, n], n = H*W*C.
    """
    # In memory order, since bytes are cheaper to rearrange than floats. A comparison into int8 takes half the time of
    # one into bool, and a conversion to bool, which asks whether an entry is not 0, half of that.
    entries = features.permute(0, 2, 3, 1)
    if rectified:
        positive = entries.bool().view(torch.int8)
    else:
        positive = torch.gt(entries, 0, out=torch.empty(entries.shape, dtype=torch.int8, device=features.device))
    split: Tensor = positive.unflatten(-1, (units, -1))  # [N, H, W, U, C]
    return split.permute(3, 0, 1, 2, 4).flatten(2)


def overlaps(codes: Tensor) -> Tensor:
    """c_i . c_j for all pairs of samples, exact; int8 [U, N, n] -> [U, N, N]."""
    return _in_float32(codes) if codes.device.type == "cpu" else _in_float16(codes)


def _in_float32(codes: Tensor) -> Tensor:
    """`overlaps` where 0/1 values and their sums, below 2^24, are exact in float32.

    (torch's product of int8 is a plain loop on CPUs without instructions for it, and reads past the end of codes of a
    single entry.)
    """
    units, samples, _ = codes.shape
    products = torch.zeros(units, samples, samples)
    for part in codes.split(_CHUNK, dim=-1):
        floats = part.float()
        products.baddbmm_(floats, floats.mT)
    return products


def _in_float16(codes: Tensor) -> Tensor:
    """`overlaps` by tensor cores: exact in parts of so many entries that float16 holds all sums of a part.

    Half of what float32 moves, and the tensor cores of any GPU that has some. The parts are summed up in float32.
    """
    units, samples, size = codes.shape
    parts = -(-size // _EXACT_SUM)
    length = -(-size // parts)
    if parts * length > size:
        codes = F.pad(codes, (0, parts * length - size))
    split = codes.view(units, samples, parts, length).transpose(1, 2)
    halves = split.to(torch.float16, memory_format=torch.contiguous_format).flatten(0, 1)
    products = halves @ halves.mT
    return products.view(units, parts, samples, samples).sum(dim=1, dtype=torch.float32)


def gram(overlap: Tensor, size: Tensor) -> Tensor:
    """K_ij = c_i.c_j + (1 - c_i).(1 - c_j), in float64.

    Args:
        overlap: c_i . c_j, [M, B, B].
        size: entries of a code, [M].

    Returns:
        [M, B, B].
    """
    k = 2 * overlap.double()
    r = k.diagonal(dim1=-2, dim2=-1) / 2
    return k.sub_(r[:, :, None]).sub_(r[:, None, :]).add_(size.double()[:, None, None])


def certain_logdet(k: Tensor) -> Tensor:
    """Log det of Gram matrices that a Cholesky factor proves to be far from singular; infinite for all others.

    Args:
        k: [M, B, B], float64, positive semidefinite.

    Returns:
        [M].
    """
    size = k.shape[-1]
    factor, failed = torch.linalg.cholesky_ex(k)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(size, dtype=k.dtype, device=k.device), upper=False)
    # 1 / lambda_min = ||K^-1||_2 <= ||L^-1||_F^2, and lambda_max <= trace
    smallest = 1 / inverse.square_().sum(dim=(-2, -1))
    largest = k.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    certain = (failed == 0) & (smallest > _MARGIN * _SINGULAR * size * largest)
    return torch.where(certain, 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1), torch.inf)


def settled(logdets: Array, matrices: Callable[[Tensor], Tensor], size: int, device: torch.device) -> Array:
    """Log det of Gram matrices, NaN where one counts as singular: lambda_min <= 16 * B * 2.2e-16 * lambda_max.

    Args:
        logdets: what `certain_logdet` says, [M]; it is changed.
        matrices: gives the matrices of some numbers, which lie on the device.
        size: B.
        device: where they are.

    Returns:
        [M]: those that were infinite by their eigenvalues, which the host takes.
    """
    doubtful = np.flatnonzero(np.isinf(logdets))
    most = max(1, _AGAIN // size**2)
    for start in range(0, len(doubtful), most):
        some = doubtful[start : start + most]
        with aside(device):
            k = matrices(to_device(some, device)).cpu()
        values = torch.linalg.eigvalsh(k)
        regular = values[:, 0] > _SINGULAR * size * values[:, -1]
        logdets[some] = torch.where(regular, values.log().sum(dim=-1), torch.nan).numpy()
    return logdets
