"""Seconds per NAS-Bench-201 architecture on the CPU: archscore, the best plain loop, the toolkit of T-CET's authors.

    python benchmarks/score_nasbench201.py --threads 2 --json result.json --check

All three score the same cells in one process, taking turns, each proxy alone and all seven in one call. The figures are
means over the cells of medians over the repetitions. archscore and the plain loop are timed from the parsed cell to the
values, network and weights included; the toolkit is given its network ready-made.

On a machine that does other work too, threads that wait for each other distort every figure: run it on an idle one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeAlias

import torch

from _report import environment, progress
from archscore.spaces.nasbench201 import Cell, NetworkConfig, parse
from archscore_server.engine import EvaluationConfig, evaluate
from references import plain_loop, toolkit

# A random sample of the connected cells: random.Random(54).sample(all 15,284 of them, 12), in the order of
# itertools.product. Seed 54, because this sample costs what the average cell costs: 55.0 million multiply-accumulates
# an image against 55.5, each operation on 12 to 18 of the 72 edges, no cell under 12 or over 82 million.
CELLS = (
    "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|nor_conv_1x1~0|skip_connect~1|nor_conv_3x3~2|",
    "|none~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|nor_conv_3x3~0|none~1|nor_conv_1x1~2|",
    "|nor_conv_1x1~0|+|skip_connect~0|avg_pool_3x3~1|+|nor_conv_3x3~0|skip_connect~1|avg_pool_3x3~2|",
    "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|",
    "|nor_conv_1x1~0|+|nor_conv_3x3~0|none~1|+|nor_conv_1x1~0|nor_conv_1x1~1|nor_conv_1x1~2|",
    "|avg_pool_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|",
    "|nor_conv_1x1~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|nor_conv_1x1~1|nor_conv_1x1~2|",
    "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    "|skip_connect~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    "|nor_conv_1x1~0|+|nor_conv_1x1~0|none~1|+|nor_conv_3x3~0|skip_connect~1|avg_pool_3x3~2|",
    "|skip_connect~0|+|avg_pool_3x3~0|none~1|+|skip_connect~0|skip_connect~1|nor_conv_1x1~2|",
)

BUNDLE = "bundle"
WORKLOADS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in plain_loop.PROXIES},
    BUNDLE: plain_loop.PROXIES,
}
OPPONENTS = ("plain_loop", "toolkit")

Values: TypeAlias = dict[str, float]
"""The value of every proxy."""

Seconds: TypeAlias = dict[str, dict[str, list[list[float]]]]
"""By workload, system, cell and repetition."""

Outcomes: TypeAlias = dict[str, list[Values]]
"""By system and cell, from the bundle."""

System: TypeAlias = Callable[[Cell, Sequence[str]], tuple[float, Values]]
"""Scores a cell with proxies; returns the seconds it took and the values."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every system scores with: the networks of the benchmark's tables and one minibatch of CIFAR's shape."""

    channels: int = 16
    cells_per_stage: int = 5
    batch_size: int = 64
    resolution: int = 32
    num_classes: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Requirement:
    """A ratio of seconds that archscore must reach.

    Attributes:
        workload: one of `WORKLOADS`.
        opponent: one of `OPPONENTS`.
        ratio: the least acceptable (opponent's seconds) / (archscore's seconds).
    """

    workload: str
    opponent: str
    ratio: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Reads WORKLOAD:OPPONENT=RATIO; raises ValueError on anything else."""
        names, _, ratio = text.partition("=")
        workload, _, opponent = names.partition(":")
        if workload not in WORKLOADS or opponent not in OPPONENTS:
            raise ValueError(f"not WORKLOAD:OPPONENT=RATIO: {text}")
        return cls(workload, opponent, float(ratio))


CHECKS = (
    Requirement(BUNDLE, "toolkit", 8.0),
    Requirement("tcet", "toolkit", 3.0),
    Requirement(BUNDLE, "plain_loop", 1.6),
    Requirement("tcet", "plain_loop", 1.6),
)


def archscore_system(setting: Setting) -> System:
    """The engine of archscore as a library, without the service."""
    config = EvaluationConfig(
        batch_size=setting.batch_size,
        resolution=setting.resolution,
        num_classes=setting.num_classes,
        seed=setting.seed,
        network=NetworkConfig(channels=setting.channels, cells_per_stage=setting.cells_per_stage),
    )

    def run(cell: Cell, proxies: Sequence[str]) -> tuple[float, Values]:
        start = time.perf_counter()
        [evaluation] = evaluate([cell], proxies, config)
        seconds = time.perf_counter() - start
        values = {}
        for proxy in proxies:
            value = evaluation.scores[proxy].value
            if value is None:
                raise RuntimeError(f"archscore has no {proxy} for {cell.format()}")
            values[proxy] = value
        return seconds, values

    return run


def plain_loop_system(setting: Setting) -> System:
    """The plain loop."""

    def run(cell: Cell, proxies: Sequence[str]) -> tuple[float, Values]:
        start = time.perf_counter()
        values = plain_loop.score(cell, proxies, **asdict(setting))
        return time.perf_counter() - start, values

    return run


def toolkit_system(setting: Setting, directory: Path) -> System:
    """The toolkit, on the plain loop's networks and minibatch in the memory order it needs."""
    score = toolkit.load(directory)
    images, labels = plain_loop.minibatch(setting.seed, setting.batch_size, setting.resolution, setting.num_classes)
    images = images.contiguous()

    def run(cell: Cell, proxies: Sequence[str]) -> tuple[float, Values]:
        network = plain_loop.Network(
            cell.operations,
            channels=setting.channels,
            cells_per_stage=setting.cells_per_stage,
            num_classes=setting.num_classes,
            seed=setting.seed,
        )
        start = time.perf_counter()
        values = score(network, proxies, images, labels)
        return time.perf_counter() - start, values

    return run


def measure(
    systems: Mapping[str, System],
    cells: Sequence[Cell],
    repetitions: int,
    workloads: Sequence[str] = tuple(WORKLOADS),
) -> tuple[Seconds, Outcomes]:
    """Times every system on every workload that is asked for.

    The systems take turns at every cell, in an order drawn each time: what slows the machine down hits all of them, and
    none always runs after the same other.
    """
    asked = {workload: WORKLOADS[workload] for workload in workloads}
    for name, run in systems.items():
        progress(f"warming up {name}")
        for cell in cells[:2]:
            for proxies in asked.values():
                run(cell, proxies)
    seconds: Seconds = {workload: {name: [[] for _ in cells] for name in systems} for workload in asked}
    values: Outcomes = {name: [{} for _ in cells] for name in systems}
    order = random.Random(0)
    for repetition in range(repetitions):
        for workload, proxies in asked.items():
            for index, cell in enumerate(cells):
                for name in order.sample(list(systems), len(systems)):
                    elapsed, found = systems[name](cell, proxies)
                    seconds[workload][name][index].append(elapsed)
                    if workload == BUNDLE:
                        values[name][index] = found
            latest = (f"{name} {fmean(times[-1] for times in seconds[workload][name]):.3f} s" for name in systems)
            progress(f"repetition {repetition + 1} of {repetitions}, {workload}: {', '.join(latest)}")
    return seconds, values


def largest_difference(values: Sequence[Values], reference: Sequence[Values], proxies: Sequence[str]) -> float:
    """Largest relative difference of any proxy on any cell."""
    return max(
        abs(mine[proxy] - theirs[proxy]) / max(abs(theirs[proxy]), sys.float_info.min)
        for mine, theirs in zip(values, reference, strict=True)
        for proxy in proxies
    )


def summarise(seconds: Seconds, values: Outcomes) -> dict[str, Any]:
    """Means over the cells of the medians over the repetitions, their ratios, and agreement; by workload."""
    summary: dict[str, Any] = {}
    for workload, by_system in seconds.items():
        typical = {name: fmean(median(times) for times in by_cell) for name, by_cell in by_system.items()}
        summary[workload] = {
            "seconds_per_architecture": typical,
            "ratio": {opponent: typical[opponent] / typical["archscore"] for opponent in OPPONENTS},
            "largest_relative_difference_from_plain_loop": {
                name: largest_difference(values[name], values["plain_loop"], WORKLOADS[workload])
                for name in ("archscore", "toolkit")
            },
        }
    return summary


def table(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    header = (
        "s per architecture",
        "archscore",
        "plain loop",
        "toolkit",
        "toolkit/archscore",
        "plain/archscore",
        "agreement",
    )
    lines = ["{:<18} {:>9} {:>10} {:>7} {:>17} {:>15} {:>9}".format(*header)]
    for workload, row in summary.items():
        typical, ratio = row["seconds_per_architecture"], row["ratio"]
        difference = row["largest_relative_difference_from_plain_loop"]["archscore"]
        lines.append(
            f"{workload:<18} {typical['archscore']:>9.3f} {typical['plain_loop']:>10.3f} {typical['toolkit']:>7.3f}"
            f" {ratio['toolkit']:>17.2f} {ratio['plain_loop']:>15.2f} {difference:>9.0e}"
        )
    lines.append("agreement: largest relative difference between archscore's values and the plain loop's")
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0] if __doc__ else None,
        epilog=f"Workloads: {', '.join(WORKLOADS)}. Opponents: {', '.join(OPPONENTS)}.",
    )
    parser.add_argument("--cells", type=int, choices=range(1, len(CELLS) + 1), default=len(CELLS), metavar="N")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch, per system"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument(
        "--toolkit", type=Path, default=Path(".cache/toolkit"), metavar="DIR", help="where the toolkit is, or is put"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if archscore misses its targets")
    parser.add_argument(
        "--require",
        type=Requirement.parse,
        action="append",
        default=[],
        metavar="WORKLOAD:OPPONENT=RATIO",
        help="exit 1 if a ratio is lower; replaces the target of --check for that pair; may be repeated",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, reports, and says whether the ratios that were asked for are reached."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    setting = Setting()
    toolkit.install(options.toolkit)
    systems = {
        "archscore": archscore_system(setting),
        "plain_loop": plain_loop_system(setting),
        "toolkit": toolkit_system(setting, options.toolkit),
    }
    encodings = CELLS[: options.cells]
    seconds, values = measure(systems, [parse(encoding) for encoding in encodings], options.repetitions)
    summary = summarise(seconds, values)
    print(table(summary))
    if options.json is not None:
        report = {
            "environment": environment(alethiometer=toolkit.VERSION),
            "setting": asdict(setting),
            "cells": encodings,
            "summary": summary,
            "seconds": seconds,
            "values": values,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    required = {(r.workload, r.opponent): r.ratio for r in (*(CHECKS if options.check else ()), *options.require)}
    missed = False
    for (workload, opponent), least in required.items():
        ratio = summary[workload]["ratio"][opponent]
        if not ratio >= least:
            missed = True
            progress(f"missed: {opponent}/archscore on {workload} is {ratio:.2f}, not {least:.2f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
