"""What proxies cost: alone, all at once and pass by pass; and the neural tangent kernel beside ordinary PyTorch.

    python benchmarks/pass_costs.py --threads 1 --json docs/benchmarks/pass-costs-cpu.json --check

Everything is measured in one run on the cells of score_nasbench201.py, taking turns at every cell: means over the cells
of medians over the repetitions, from the parsed cell to the values. A pass costs what the proxies cost that need no
other pass, asked together. Proxies that need the same statistics are measured once. docs/proxies.md takes its costs
from the JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeAlias

import torch

from _report import environment, progress
from archscore.spaces.nasbench201 import Cell, parse
from archscore_server.engine import EvaluationConfig, evaluate
from archscore_server.engine.proxies import get, names
from archscore_server.engine.statistics import Pass
from references import tangent_kernel
from score_nasbench201 import CELLS, Setting

Workload: TypeAlias = Callable[[Cell], object]

ALL = "all at once"
REFERENCES = {"loop": False, "batched": True}
NTK = "ntk_condition_number"

#: Targets of --check: all at once over the sum of the passes, all at once over one by one, and the kernel over the
#: faster of the references; each at most that.
TARGETS = {"all_over_passes": 1.3, "all_over_one_by_one": 1 / 3, "ntk_over_faster_reference": 1.0}


def proxy_workloads() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Proxies by the statistics that they need; those of one entry cost the same."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for name in names():
        needs = tuple(sorted(get(name).needs))
        found[needs] = (*found.get(needs, ()), name)
    return found


def pass_workloads() -> dict[Pass, tuple[str, ...]]:
    """For each pass the proxies that need it alone, which together need all its statistics."""
    return {own: tuple(name for name in names() if get(name).passes == (own,)) for own in Pass}


def workloads() -> dict[str, Workload]:
    """Everything that is timed, by name."""
    config = EvaluationConfig()

    def scoring(proxies: Sequence[str]) -> Workload:
        return lambda cell: evaluate([cell], proxies, config)

    setting = asdict(Setting())
    return {
        **{f"proxy {proxies[0]}": scoring(proxies[:1]) for proxies in proxy_workloads().values()},
        **{f"pass {own.value}": scoring(proxies) for own, proxies in pass_workloads().items()},
        ALL: scoring(names()),
        **{
            f"ntk {name}": partial(tangent_kernel.condition_number, batched=batched, **setting)
            for name, batched in REFERENCES.items()
        },
    }


def measure(cells: Sequence[Cell], repetitions: int) -> dict[str, list[list[float]]]:
    """Seconds by workload, cell and repetition; the order is drawn each time, for neighbours disturb each other."""
    timed = workloads()
    for name, run in timed.items():
        progress(f"warming up: {name}")
        run(cells[0])
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in cells] for name in timed}
    order = random.Random(0)
    for repetition in range(repetitions):
        for index, cell in enumerate(cells):
            for name in order.sample(list(timed), len(timed)):
                start = time.perf_counter()
                timed[name](cell)
                seconds[name][index].append(time.perf_counter() - start)
            progress(f"repetition {repetition + 1} of {repetitions}, cell {index + 1} of {len(cells)}")
    return seconds


def summarise(seconds: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Seconds per architecture of proxies, passes and references, and the ratios that the targets are about."""
    typical = {name: fmean(median(times) for times in by_cell) for name, by_cell in seconds.items()}
    proxies = {name: typical[f"proxy {members[0]}"] for members in proxy_workloads().values() for name in members}
    passes = {own.value: typical[f"pass {own.value}"] for own in Pass}
    references = {name: typical[f"ntk {name}"] for name in REFERENCES}
    return {
        "proxies": dict(sorted(proxies.items())),
        "relative_to_snip": {name: cost / proxies["snip"] for name, cost in sorted(proxies.items())},
        "passes": passes,
        "all_at_once": typical[ALL],
        "one_by_one": sum(proxies.values()),
        "ntk_references": references,
        "ratios": {
            "all_over_passes": typical[ALL] / sum(passes.values()),
            "all_over_one_by_one": typical[ALL] / sum(proxies.values()),
            "ntk_over_faster_reference": proxies[NTK] / min(references.values()),
        },
    }


def kernel_difference(cells: Sequence[Cell]) -> float:
    """Largest relative difference between the condition numbers of archscore and of the looping reference."""
    differences = []
    for cell in cells:
        theirs = tangent_kernel.condition_number(cell, batched=False, **asdict(Setting()))
        [evaluation] = evaluate([cell], [NTK], EvaluationConfig())
        value = evaluation.scores[NTK].value
        if value is None:
            raise RuntimeError(f"archscore has no {NTK} for {cell.format()}")
        differences.append(abs(value - theirs) / theirs)
    return max(differences)


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: passes, then totals, then ratios."""
    lines = ["| | s per architecture |", "|---|---|"]
    lines += [f"| pass {name} | {cost:.3f} |" for name, cost in summary["passes"].items()]
    lines += [
        f"| sum of the passes | {sum(summary['passes'].values()):.3f} |",
        f"| all {len(summary['proxies'])} proxies at once | {summary['all_at_once']:.3f} |",
        f"| all proxies one by one | {summary['one_by_one']:.3f} |",
        f"| {NTK} | {summary['proxies'][NTK]:.3f} |",
    ]
    lines += [f"| the same, PyTorch, {name} | {cost:.3f} |" for name, cost in summary["ntk_references"].items()]
    lines += ["", "| ratio | | at most |", "|---|---|---|"]
    lines += [f"| {name} | {ratio:.3f} | {TARGETS[name]:.3f} |" for name, ratio in summary["ratios"].items()]
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--cells", type=int, choices=range(1, len(CELLS) + 1), default=len(CELLS), metavar="N")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a ratio misses its target")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, reports, and says whether the targets are reached."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    cells = [parse(encoding) for encoding in CELLS[: options.cells]]
    seconds = measure(cells, options.repetitions)
    summary = summarise(seconds)
    print(table(summary))
    if options.json:
        report = {
            "environment": environment(),
            "setting": asdict(Setting()),
            "cells": CELLS[: options.cells],
            "summary": summary,
            "ntk_largest_relative_difference": kernel_difference(cells),
            "seconds": {
                name: [[round(time, 4) for time in times] for times in by_cell] for name, by_cell in seconds.items()
            },
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    missed = [name for name, most in TARGETS.items() if not summary["ratios"][name] <= most] if options.check else []
    for name in missed:
        progress(f"missed: {name} is {summary['ratios'][name]:.3f}, more than {TARGETS[name]:.3f}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
