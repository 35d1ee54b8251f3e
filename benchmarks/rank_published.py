"""Whether scores rank cells as those that were published with NASLib do: Spearman's correlation of five proxies.

    python benchmarks/rank_published.py --published published.csv.gz --images cifar10.npz --check

The published scores are a CSV with the columns `dataset`, `arch_str` and one for each proxy; its rows of cifar10 are
taken. They were computed with another initialisation and minibatch, so ranks compare and values do not. The images are
an archive as the dataset `npz:NAME` reads it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import scipy
import torch
from scipy.stats import spearmanr

from _report import environment, progress
from _scores import score
from archscore.spaces.nasbench201 import Cell, parse
from archscore.study._ranking import Array, as_ranked
from archscore.study._rows import Scores
from archscore_server.engine import Datasets, EvaluationConfig, proxies

#: The least acceptable correlation of --check.
TARGETS = {"synflow": 0.99, "snip": 0.95, "grad_norm": 0.95, "fisher": 0.95, "jacob_cov": 0.9}

#: What NASLib calls a proxy, where that is another name.
COLUMNS = {"jacob_cov": "jacov"}

_DATASET = "cifar10"


def read_published(path: Path, names: Iterable[str], dataset: str) -> tuple[list[Cell], dict[str, list[float]]]:
    """Cells and, for each proxy of the names, their published scores on a dataset."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == dataset]
    published = {name: [float(row[COLUMNS.get(name, name)]) for row in rows] for name in names}
    return [parse(row["arch_str"]) for row in rows], published


def table(found: Mapping[str, float], scored: Mapping[str, int]) -> str:
    """Markdown."""
    lines = ["| proxy | Spearman | target | cells with a score |", "|---|---|---|---|"]
    lines += [f"| {name} | {rho:.4f} | {TARGETS[name]:.2f} | {scored[name]} |" for name, rho in found.items()]
    return "\n".join(lines)


def _ranked(scores: Sequence[Scores], name: str) -> Array:
    return as_ranked(scores, name, higher_is_better=proxies.get(name).higher_is_better)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--published", type=Path, required=True, metavar="CSV")
    parser.add_argument("--images", type=Path, required=True, metavar="NPZ")
    parser.add_argument("--batch-size", type=int, default=64, metavar="B")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="keep scores there, and take those it has")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a correlation is below its target")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Scores, compares, reports, and says whether the targets are reached."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    chosen, published = read_published(options.published, TARGETS, _DATASET)
    data = Datasets(options.images.parent)
    info = data.open(f"npz:{options.images.stem}").info
    config = EvaluationConfig(batch_size=options.batch_size, **info.config_fields)
    scores = score(chosen, list(TARGETS), config, path=options.scores, data=data, device=options.device)
    found = {
        name: float(spearmanr(_ranked(scores, name), np.array(theirs)).statistic) for name, theirs in published.items()
    }
    scored = {name: sum(not isinstance(own[name], str) for own in scores) for name in TARGETS}
    print(table(found, scored))
    if options.json:
        report = {
            "environment": environment(scipy=scipy.__version__, device=options.device),
            "config": asdict(config),
            "cells": len(chosen),
            "scored": scored,
            "spearman": found,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    missed = False
    for name, least in TARGETS.items() if options.check else ():
        if not found[name] >= least:
            missed = True
            progress(f"missed: Spearman's correlation of {name} is {found[name]:.4f}, not {least:.2f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
