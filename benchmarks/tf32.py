"""By how much TF32 changes scores and ranks, emulated on a CPU.

    python benchmarks/tf32.py --cells 100 --json docs/benchmarks/tf32-cpu.json

TF32 multiplies factors that are rounded to 10 bits after the point, and adds up products in float32. Here the factors
of every convolution, matrix product and their derivatives in float32 are rounded so (to nearest, ties to even) and the
CPU multiplies them in float32: each product is then exactly that of a tensor core, and sums are rounded in another
order. So scores are no GPU's to the last digit, but as far from those in float32 as a GPU's. What takes float64 by
definition stays as it is. Of speed this tells nothing; `benchmarks/gpu.py` measures both on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from _report import environment, progress
from archscore.spaces.nasbench201 import Cell
from archscore.study._cells import random_cells
from archscore.study._ranking import Array, tau
from archscore_server.engine import Evaluation, EvaluationConfig, evaluate, kernels
from archscore_server.engine import proxies as registry

_aten = torch.ops.aten

#: What cuDNN and cuBLAS do in TF32 where they may, and how many of the first arguments are factors.
FACTORS: Mapping[Any, int] = {
    _aten.convolution.default: 2,
    _aten.convolution_backward.default: 3,
    _aten.mm.default: 2,
    _aten.bmm.default: 2,
    _aten.addmm.default: 3,
    _aten.baddbmm.default: 3,
    _aten.baddbmm_.default: 3,
}

#: Of these the first argument is added, not multiplied.
_SUMMANDS = {_aten.addmm.default, _aten.baddbmm.default, _aten.baddbmm_.default}

#: All but EPE-NAS, which is in float64, and so would be what `jacob_cov` shares with it.
_PROXIES = [name for name in registry.names() if name != "epe_nas"]

#: Bits of a float32 that TF32 has not, of 23 after the point.
_DROPPED = 13


def rounded(factor: Tensor) -> Tensor:
    """A float32 tensor with 10 bits after the point: to nearest, ties to even."""
    bits = factor.view(torch.int32)
    half = (1 << (_DROPPED - 1)) - 1
    nearest = (bits + half + ((bits >> _DROPPED) & 1)) & ~((1 << _DROPPED) - 1)
    return torch.where(factor.isfinite(), nearest.view(torch.float32), factor)


class Emulated(TorchDispatchMode):
    """Rounds the factors of products in float32 as TF32 does, in derivatives too.

    Attributes:
        products: how many were.
    """

    def __init__(self) -> None:
        """Has seen none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.products = 0

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation."""
        count = FACTORS.get(operation, 0)
        if count and not _pools(operation, args):
            first = 1 if operation in _SUMMANDS else 0
            args = (*args[:first], *tree_map(_as_factor, tuple(args[first:count])), *args[count:])
            self.products += 1
        return operation(*args, **(kwargs or {}))


def _pools(operation: Any, args: Sequence[Any]) -> bool:
    """Whether a convolution is an average pool, which is one on CPUs alone: each channel by itself."""
    weights = {_aten.convolution.default: 1, _aten.convolution_backward.default: 2}.get(operation)
    return weights is not None and args[weights].shape[1] == 1


def _as_factor(value: Any) -> Any:
    return rounded(value) if isinstance(value, Tensor) and value.dtype is torch.float32 else value


def compare(exact: Array, other: Array) -> dict[str, float]:
    """How far scores are from those in float32.

    Returns:
        The median and the largest relative change, and Kendall's tau between both rankings.
    """
    with np.errstate(all="ignore"):
        change = np.abs(other - exact) / np.abs(exact)
    change = np.where(other == exact, 0.0, change)
    return {"median": float(np.median(change)), "largest": float(change.max()), "tau": tau(exact, other)}


def measure(cells: Sequence[Cell], config: EvaluationConfig, proxies: Sequence[str]) -> dict[str, dict[str, float]]:
    """The comparison by proxy, over the cells that both have a score of."""
    exact: list[Evaluation] = []
    other: list[Evaluation] = []
    with kernels.off():  # torch's operations, as on a GPU
        for number, cell in enumerate(cells):
            exact += evaluate([cell], proxies, config)
            with Emulated():
                other += evaluate([cell], proxies, config)
            progress(f"cell {number + 1} of {len(cells)}")
    found = {}
    for name in proxies:
        pairs = [(own.scores[name].value, its.scores[name].value) for own, its in zip(exact, other, strict=True)]
        both = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)
        if not len(both):
            progress(f"{name}: no cell has a score")
            continue
        found[name] = {**compare(*both.T), "cells": len(both)}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--cells", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--batch-size", type=int, default=EvaluationConfig().batch_size, metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument("--proxies", default=",".join(_PROXIES), metavar="NAMES", help="separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    proxies = [name for name in options.proxies.split(",") if not registry.get(name).static]
    cells = [cell for cell in random_cells(2 * options.cells, options.seed) if cell.connected][: options.cells]
    found = measure(cells, EvaluationConfig(batch_size=options.batch_size), proxies)
    print("| proxy | median change | largest change | tau of the rankings | cells |\n|---|---|---|---|---|")
    for name, own in found.items():
        print(f"| {name} | {own['median']:.1e} | {own['largest']:.1e} | {own['tau']:.4f} | {own['cells']} |")
    if options.json:
        setting = {"cells": len(cells), "seed": options.seed, "batch_size": options.batch_size}
        report = {
            "environment": environment(),
            "setting": setting,
            "proxies": found,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
