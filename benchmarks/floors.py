"""How close the engine comes to the machine: ceilings, the floor of each pass, and where the time goes.

    python benchmarks/floors.py --threads 1 --json docs/benchmarks/floors-cpu.json

All in one process and run, on the cells of score_nasbench201.py. Ceilings are a large float32 matrix product and a
large copy, repeated between the cells; on a GPU also the rate of launches. The floor of a workload is what its
convolutions and matrix products would take at these rates: their operations at that of the matrix product, or their
operands and results at that of the copy, whichever takes longer. Everything else is free in a floor. Operations are
those of sums of products; a convolution by Winograd takes fewer.

On a CPU the operators of tcet and of the bundle are profiled after that, and their time is listed by what they are for,
by the kernels for CPUs and by torch's operations.
The profiler slows small operators down: the shares are of the time under it.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from _report import environment, progress
from archscore.spaces.nasbench201 import Cell, parse
from archscore_server.engine import EvaluationConfig, evaluate, kernels, observation
from archscore_server.engine.networks import Stack
from archscore_server.engine.passes import _context, _gradients
from pass_costs import pass_workloads
from score_nasbench201 import BUNDLE, CELLS, WORKLOADS

#: Rows and columns of the matrices whose product is the ceiling.
_MATRIX = {"cpu": 2048, "cuda": 8192}
#: Entries of what is copied: more than any cache holds.
_COPIED = 2**25
#: Launches that the rate of launches is taken over.
_LAUNCHES = 2000

#: What an operator is for: the first pattern that finds its name, or that of something that it is part of.
KINDS = (
    ("BatchNorm, sums, ReLU and codes in one", r"^kernel: (un)?join$"),
    ("weights", r"^kind: weights"),
    ("data", r"^kind: data"),
    ("codes and Gram matrices", r"^kind: Gram|^kernel: overlaps$"),
    ("log-determinants", r"^kind: logdets"),
    ("statistics of gradients", r"^kind: statistics"),
    ("pooling", r"^kernel: pool$|_Pool|avg_pool"),
    ("BatchNorm", r"batch_norm|BatchNorm"),
    ("convolutions", r"^kernel: convolve$|convolution|ConvolutionBackward|conv2d"),
    ("ReLU", r"relu|Relu|clamp_min|threshold"),
    ("sums of edges", r"_Deal|_Collect|^aten::add_?$|^aten::sum$"),
)
OTHER, BETWEEN = "other operators", "between operators"

#: What the profiler cannot tell by an operator's name is wrapped: the owner, its attribute, the kind.
_WRAPPED: tuple[tuple[Any, str, str], ...] = (
    (Stack, "weights", "weights"),
    (_context.Context, "images", "data"),
    (_context.Context, "labels", "data"),
    (observation, "codes", "Gram"),
    (observation, "overlaps", "Gram"),
    (observation, "gram", "Gram"),
    (observation, "certain_logdet", "logdets"),
    (observation, "settled", "logdets"),
    (_gradients, "saliency", "statistics"),
    (_gradients, "sums", "statistics"),
    (_gradients, "norms", "statistics"),
)


@dataclass(frozen=True, slots=True)
class Demand:
    """What convolutions and matrix products ask of the machine.

    Attributes:
        operations: additions and multiplications.
        bytes: of their operands and results.
    """

    operations: float
    bytes: float

    def floor(self, ceilings: Mapping[str, float]) -> float:
        """Seconds that it takes at the ceilings."""
        return max(self.operations / ceilings["operations_per_second"], self.bytes / ceilings["bytes_per_second"])


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that convolutions and matrix products read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if re.search(r"convolution|mm", func.__name__):
            tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


#: The kernels for CPUs, which the profiler does not know.
_KERNELS = ("convolve", "join", "overlaps", "pool", "unjoin")

#: Of the workloads that are profiled and measured by torch's operations, too.
BY_TORCH = " by torch"


def demand(run: Callable[[], object]) -> Demand:
    """What a workload asks of the machine, as torch computes it."""
    counter = FlopCounterMode(display=False)
    with kernels.off(), counter:
        run()
    with kernels.off(), _Traffic() as traffic:
        run()
    return Demand(counter.get_total_flops(), traffic.bytes)


class Ceilings:
    """Measures what the machine can do, over and over between other work."""

    def __init__(self, device: torch.device) -> None:
        """Makes the operands."""
        self._device = device
        size = _MATRIX[device.type]
        self._a = torch.randn(size, size, device=device)
        self._b = torch.randn(size, size, device=device)
        self._product = torch.empty_like(self._a)
        self._source = torch.randn(_COPIED, device=device)
        self._target = torch.empty_like(self._source)
        self._rates: defaultdict[str, list[float]] = defaultdict(list)

    def measure(self) -> None:
        """Measures each once more."""
        product = self._seconds(lambda: torch.mm(self._a, self._b, out=self._product))
        self._rates["operations_per_second"].append(2 * self._a.shape[0] ** 3 / product)
        copied = self._seconds(lambda: self._target.copy_(self._source))
        self._rates["bytes_per_second"].append(2 * self._source.nbytes / copied)
        if self._device.type == "cuda":
            small = self._a[0, :1].clone()
            launched = self._seconds(lambda: [small.add_(1) for _ in range(_LAUNCHES)])
            self._rates["launches_per_second"].append(_LAUNCHES / launched)

    def rates(self) -> dict[str, float]:
        """Medians of what was measured."""
        return {name: median(rates) for name, rates in self._rates.items()}

    def _seconds(self, run: Callable[[], object]) -> float:
        return seconds(run, self._device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """What a run takes, from an idle device to an idle device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def kind_of(names: Sequence[str]) -> str:
    """What an operator is for.

    Args:
        names: of the operator and of those that it is part of.
    """
    return next((kind for kind, pattern in KINDS if any(re.search(pattern, name) for name in names)), OTHER)


@contextmanager
def told_apart() -> Iterator[None]:
    """Has the profiler see what parts of the engine are for."""
    with ExitStack() as stack:
        for owner, attribute, kind in _WRAPPED:
            recorded = _recorded(getattr(owner, attribute), f"kind: {kind}")
            stack.enter_context(mock.patch.object(owner, attribute, recorded))
        for name in _KERNELS:
            recorded = _recorded(getattr(kernels, name), f"kernel: {name}")
            stack.enter_context(mock.patch.object(kernels, name, recorded))
        yield


def _recorded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return wrapper


def shares(run: Callable[[], object]) -> dict[str, float]:
    """Share of a run's time by what it goes into; they add up to 1."""
    spent: defaultdict[str, float] = defaultdict(float)
    with told_apart(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        run()
        whole = time.perf_counter() - start
    for event in profiler.events():
        names, parent = [], event
        while parent is not None:
            names.append(parent.name)
            parent = parent.cpu_parent
        if event.name.startswith(("aten::", "kernel: ")):  # what is not an operator is Python, or bookkeeping
            spent[kind_of(names)] += event.self_cpu_time_total / 1e6
    spent[BETWEEN] = whole - sum(spent.values())
    return {kind: spent[kind] / whole for kind in [*(kind for kind, _ in KINDS), OTHER, BETWEEN]}


def workloads() -> dict[str, tuple[str, ...]]:
    """Proxies by what is measured: tcet, the bundle, and each pass with all that it yields."""
    passes = {f"pass {own.value}": proxies for own, proxies in pass_workloads().items()}
    mains = {name: WORKLOADS[name] for name in ("tcet", BUNDLE)}
    by_torch = {name + BY_TORCH: proxies for name, proxies in mains.items()} if kernels.available() else {}
    return {**mains, **by_torch, **passes}


def scoring(cells: Sequence[Cell], name: str, device: torch.device) -> Callable[[], object]:
    """Scores cells with the proxies of a workload, one after the other."""
    proxies = workloads()[name]

    def run() -> None:
        with kernels.off() if name.endswith(BY_TORCH) else nullcontext():
            for cell in cells:
                evaluate([cell], proxies, EvaluationConfig(), device=device)

    return run


def measure(cells: Sequence[Cell], repetitions: int, device: torch.device) -> dict[str, Any]:
    """Ceilings, and for each workload its seconds by cell and repetition and what it demands, by cell."""
    ceilings = Ceilings(device)
    measured = workloads()
    demands: dict[str, list[Demand]] = {name: [] for name in measured}
    times: dict[str, list[list[float]]] = {name: [[] for _ in cells] for name in measured}
    order = random.Random(0)
    for name in measured:
        progress(f"what {name} demands")
        scoring(cells[:1], name, device)()
        demands[name] = [demand(scoring([cell], name, device)) for cell in cells]
    ceilings.measure()
    for repetition in range(repetitions):
        for index, cell in enumerate(cells):
            for name in order.sample(list(measured), len(measured)):
                times[name][index].append(seconds(scoring([cell], name, device), device))
                ceilings.measure()
            progress(f"repetition {repetition + 1} of {repetitions}, cell {index + 1} of {len(cells)}")
    return {"ceilings": ceilings.rates(), "times": times, "demands": demands}


def summarise(measured: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By workload: seconds, floor and their ratio, means over the cells of medians over the repetitions."""
    summary = {}
    for name, by_cell in measured["times"].items():
        typical = fmean(median(own) for own in by_cell)
        floor = fmean(each.floor(measured["ceilings"]) for each in measured["demands"][name])
        summary[name] = {
            "seconds": typical,
            "operations": fmean(each.operations for each in measured["demands"][name]),
            "bytes": fmean(each.bytes for each in measured["demands"][name]),
            "floor_seconds": floor,
            "reached": floor / typical,
        }
    return summary


def table(ceilings: Mapping[str, float], summary: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: workloads beside their floors."""
    lines = [
        f"Matrix product {ceilings['operations_per_second'] / 1e9:.0f} GFLOP/s, copy "
        f"{ceilings['bytes_per_second'] / 1e9:.1f} GB/s"
        + (f", {ceilings['launches_per_second']:,.0f} launches/s" if "launches_per_second" in ceilings else ""),
        "",
        "| | s | GFLOP | GB | floor, s | reached |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {own['seconds']:.3f} | {own['operations'] / 1e9:.1f} | {own['bytes'] / 1e9:.2f} "
        f"| {own['floor_seconds']:.3f} | {own['reached']:.0%} |"
        for name, own in summary.items()
    ]
    return "\n".join(lines)


def shares_table(by_workload: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: where the time goes."""
    names = list(by_workload)
    kinds = list(by_workload[names[0]])
    lines = ["| share of the time | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {kind} | " + " | ".join(f"{by_workload[name][kind]:.1%}" for name in names) + " |" for kind in kinds]
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--cells", type=int, choices=range(1, len(CELLS) + 1), default=len(CELLS), metavar="N")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument("--device", choices=tuple(_MATRIX), default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and reports."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    cells = [parse(encoding) for encoding in CELLS[: options.cells]]
    measured = measure(cells, options.repetitions, device)
    summary = summarise(measured)
    print(table(measured["ceilings"], summary))
    by_workload = {}
    if device.type == "cpu":
        for name in (name for name in workloads() if not name.startswith("pass ")):
            progress(f"profiling {name}")
            by_workload[name] = shares(scoring(cells, name, device))
        print(f"\n{shares_table(by_workload)}")
    if options.json:
        report = {
            "environment": environment(device=options.device),
            "cells": CELLS[: options.cells],
            "ceilings": measured["ceilings"],
            "summary": summary,
            "shares": by_workload,
            "seconds": {
                name: [[round(own, 5) for own in times] for times in by_cell]
                for name, by_cell in measured["times"].items()
            },
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
