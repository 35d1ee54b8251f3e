"""Why rows of Table 1 differ from the paper's: the same cells under other configs and by other definitions.

    python benchmarks/ablations.py --study docs/results/nasbench201.parquet --accuracies accuracy.csv.gz \
        --data-dir images --json docs/benchmarks/ablations.json --document

For each variant Kendall's tau with the accuracies, and its difference from the default's on the same cells, with the
95 % interval over resampled cells. Cells are the first of the study with seed 0, whose file has the default's scores.
Scores are kept as they come, so a run that was cut off goes on where it was; --report-only takes those there are, and
--extend what an earlier report has of other variants, whose scores need not be there any more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from google.protobuf import json_format

from _ablation_tables import markdown
from _report import environment, progress
from _variants import CIFAR10, CIFAR100, Variant, variants
from archscore.spaces.nasbench201 import NUM_CELLS, SPACE, Cell, cells
from archscore.study._accuracies import Accuracies, read_csv
from archscore.study._cells import random_cells
from archscore.study._file import ScoreFile
from archscore.study._published import COLUMNS, SOURCE, TAU
from archscore.study._ranking import Array, Figure, as_ranked, draws, interval, rank_sums, tau
from archscore.study._rows import Scores
from archscore_server.engine import Datasets, EvaluationConfig
from archscore_server.engine.proxies import get
from archscore_server.responses import config_message
from rank_published import read_published

DEFAULT = "default"
TE_NAS = ("ntk_condition_number", "linear_regions")

_ROOT = Path(__file__).resolve().parents[1]
_PAGE = _ROOT / "docs" / "results-ablations.md"
_BEGIN, _END = "<!-- begin: written by benchmarks/ablations.py -->", "<!-- end -->"
_CONFIG = EvaluationConfig()
_PUBLISHED = ("grad_norm", "grasp", "snip", "synflow")
"""Proxies whose published scores are looked at."""
_DATASETS = dict(zip(COLUMNS, ("cifar10", "cifar100", "ImageNet16-120"), strict=True))
"""What the published scores call the images of a column."""
_LEAST = 3
"""Cells that a tau takes."""

Measured = Mapping[str, Sequence[Scores]]
"""Scores of the first cells by variant; some variants have fewer."""


@dataclass(frozen=True, slots=True)
class Term:
    """One proxy of a row.

    Attributes:
        proxy: which.
        of: the variants that have its scores; of several, the mean counts.
    """

    proxy: str
    of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of Table 1, under another config or by another definition.

    Attributes:
        target: the row of the table.
        what: how it differs, in words.
        terms: the proxies whose ranks are summed.
        unscored: the value of a cell without a score; None leaves it out.
        transform: applied to scores.
    """

    target: tuple[str, ...]
    what: str
    terms: tuple[Term, ...]
    unscored: float | None = -math.inf
    transform: Callable[[float], float] = float

    def values(self, measured: Measured, count: int) -> Array:
        """What the first `count` cells are ranked by, the higher the better; NaN where one is left out, [count]."""
        columns = np.stack([self._column(term, measured, count) for term in self.terms], axis=1)
        return columns[:, 0] if len(self.terms) == 1 else rank_sums(columns)

    def _column(self, term: Term, measured: Measured, count: int) -> Array:
        higher = get(term.proxy).higher_is_better
        each = [as_ranked(measured[name][:count], term.proxy, higher_is_better=higher) for name in term.of]
        mean = np.mean(each, axis=0)
        scored = np.isfinite(mean)
        transformed = [self.transform(float(value)) for value in mean[scored]]
        result = np.full(count, math.nan if self.unscored is None else self.unscored)
        result[scored] = transformed
        return result


def rows(measured: Sequence[Variant]) -> list[Row]:
    """What is compared with the default, row by row of Table 1, as far as it was measured."""
    named = {variant.name: variant for variant in measured}
    found = [
        Row((proxy,), variant.what, (Term(proxy, (variant.name,)),))
        for variant in measured
        for proxy in variant.proxies
        if (proxy,) in TAU
    ]
    if {"seed1", "seed2"} <= named.keys():
        seeds = (DEFAULT, "seed1", "seed2")
        found += [Row((proxy,), "mean of 3 seeds", (Term(proxy, seeds),)) for proxy in named["seed1"].proxies]
    grasp = (Term("grasp", (DEFAULT,)),)
    found += [
        Row(("layerwise_naswot",), "train mode", (Term("layerwise_naswot_train", (DEFAULT,)),)),
        Row(("grasp",), "disconnected cells left out", grasp, unscored=None),
        Row(("grasp",), "disconnected cells score 0", grasp, unscored=0.0),
        Row(("grasp",), "disconnected cells score 0, absolute value", grasp, unscored=0.0, transform=abs),
    ]
    for variant in measured:
        if "grasp" in variant.proxies and variant.config.dataset in (CIFAR10, CIFAR100):
            real = (Term("grasp", (variant.name,)),)
            found.append(Row(("grasp",), f"{variant.what}, disconnected cells score 0", real, unscored=0.0))
    kernels = [variant for variant in measured if "ntk_condition_number" in variant.proxies]
    regions = Term("linear_regions", ("thin-regions",))
    for variant in kernels:
        kernel = Term("ntk_condition_number", (variant.name,))
        found.append(Row(TE_NAS, f"kernel alone: {variant.what}", (kernel,)))
    if "thin-regions" in named:
        what = named["thin-regions"].what
        found.append(Row(TE_NAS, f"regions alone: {what}", (regions,)))
        found.append(Row(TE_NAS, f"regions: {what}", (Term("ntk_condition_number", (DEFAULT,)), regions)))
        for variant in kernels:
            kernel = Term("ntk_condition_number", (variant.name,))
            found.append(Row(TE_NAS, f"kernel: {variant.what}; regions: {what}", (kernel, regions)))
    order = list(TAU)
    return sorted(found, key=lambda row: order.index(row.target))


def default_row(target: tuple[str, ...]) -> Row:
    """A row as the study has it."""
    return Row(target, DEFAULT, tuple(Term(proxy, (DEFAULT,)) for proxy in target))


def compared(row: Row, measured: Measured, accuracies: Array, resamples: int) -> dict[str, Any]:
    """Tau of a row, and how far it is from the default's on the same cells; accuracies [n, columns]."""
    count = min(len(measured[name]) for name in {DEFAULT, *(name for term in row.terms for name in term.of)})
    ours, default = row.values(measured, count), default_row(row.target).values(measured, count)
    figures = {}
    for place, column in enumerate(COLUMNS):
        truth = accuracies[:count, place]
        resampled = [
            _tau(ours[drawn], truth[drawn]) - _tau(default[drawn], truth[drawn])
            for drawn in draws(count, resamples, seed=0)
        ]
        own, of_default = _tau(ours, truth), _tau(default, truth)
        figures[column] = {
            "tau": own,
            "default": of_default,
            "difference": asdict(interval(own - of_default, resampled)),
        }
    return {"row": list(row.target), "variant": row.what, "cells": count, "tau": figures}


def _tau(values: Array, truth: Array) -> float:
    there = ~np.isnan(values)
    return tau(values[there], truth[there]) if there.sum() >= _LEAST else math.nan


def samples(measured: Measured, accuracies: Array, resamples: int) -> list[dict[str, Any]]:
    """Tau by the default config on all cells of the study and on its halves, for each row of Table 1."""
    count = len(measured[DEFAULT])
    parts = {"all": slice(0, count), "first half": slice(0, count // 2), "second half": slice(count // 2, count)}
    found = []
    for target in TAU:
        values = default_row(target).values(measured, count)
        figures = {
            part: {
                column: asdict(_interval(values[own], accuracies[own, place], resamples))
                for place, column in enumerate(COLUMNS)
            }
            for part, own in parts.items()
        }
        found.append({"row": list(target), "cells": count, "tau": figures})
    return found


def _interval(values: Array, truth: Array, resamples: int) -> Figure:
    drawn = draws(len(values), resamples, seed=0)
    return interval(tau(values, truth), [tau(values[own], truth[own]) for own in drawn])


def whole_space(accuracies: Accuracies, study: ScoreFile | None) -> dict[str, dict[str, float]]:
    """Tau on all cells that have accuracies: of the number of parameters, and of the rows of a study of all of them.

    Returns:
        By proxy and column of the accuracies, validation accuracies included.

    Raises:
        ValueError: the study is of another config, or does not have all cells.
    """
    every = list(cells())
    columns = {"parameters": np.array([_parameters(cell) for cell in every], dtype=float)}
    if study is not None:
        _check_config(study, "the study of all cells")
        if len(study.rows) < len(every):
            raise ValueError(f"the study of all cells has {len(study.rows):,} of {len(every):,}")
        scores = [study.rows[cell.index].scores for cell in every]
        for proxy in study.setting.proxies:
            if (proxy,) in TAU and proxy not in columns:
                columns[proxy] = as_ranked(scores, proxy, higher_is_better=get(proxy).higher_is_better)
    found: dict[str, dict[str, float]] = {proxy: {} for proxy in columns}
    for column, own in accuracies.items():
        there = [place for place, cell in enumerate(every) if cell.index in own]
        truth = np.array([own[every[place].index] for place in there])
        for proxy, values in columns.items():
            found[proxy][column] = tau(values[there], truth)
    return found


def published(path: Path, accuracies: Accuracies, resamples: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Tau of scores that others have published, on the images of each column; by proxy and column, with the cells."""
    found: dict[str, dict[str, dict[str, Any]]] = {proxy: {} for proxy in _PUBLISHED}
    for column, dataset in _DATASETS.items():
        scored, scores = read_published(path, _PUBLISHED, dataset)
        there = [place for place, cell in enumerate(scored) if cell.index in accuracies[column]]
        truth = np.array([accuracies[column][scored[place].index] for place in there])
        for proxy, values in scores.items():
            finite = np.nan_to_num(np.array(values)[there], nan=-math.inf)
            found[proxy][column] = {"cells": len(there), **asdict(_interval(finite, truth, resamples))}
    return found


def _parameters(cell: Cell) -> int:
    return cell.size(SPACE.network, resolution=_CONFIG.resolution, num_classes=_CONFIG.num_classes).parameters


def extended(report: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """A report with the rows of an earlier one besides its own; of a row that both have, that of more cells.

    Raises:
        ValueError: the earlier one compares with other scores or accuracies.
    """
    ours, theirs = (json.loads(json.dumps([own["default"], own["samples"]])) for own in (report, earlier))
    if ours != theirs:
        raise ValueError("the earlier report is of another study, other accuracies or another number of resamples")
    kept: dict[tuple[Any, ...], Any] = {}
    for own in (*earlier["rows"], *report["rows"]):
        key = (*own["row"], own["variant"])
        if key not in kept or own["cells"] >= kept[key]["cells"]:
            kept[key] = own
    order = list(TAU)
    return {
        **report,
        "variants": {**earlier["variants"], **report["variants"]},
        "rows": sorted(kept.values(), key=lambda own: order.index(tuple(own["row"]))),
        "published": report["published"] or earlier["published"],
    }


def document(report: Mapping[str, Any]) -> None:
    """Puts the tables of a report into the documentation."""
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise RuntimeError(f"{_PAGE} has no place for the tables: {_BEGIN} ... {_END}")
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{markdown(report)}\n\n{_END}{after}", encoding="utf-8")


def measure(chosen: Sequence[Variant], options: argparse.Namespace) -> dict[str, list[Scores]]:
    """Scores of the first cells by the default config, from the study, and by each variant that has any."""
    order = random_cells(NUM_CELLS, seed=0)
    found = {DEFAULT: study_scores(options.study, order)}
    data = Datasets(options.data_dir) if options.data_dir else None
    options.scores.mkdir(parents=True, exist_ok=True)
    for variant in chosen:
        path = options.scores / f"{variant.name}.jsonl"
        kept = path.read_text(encoding="utf-8").count("\n") - 1 if path.exists() else 0
        count = min(kept if options.report_only else options.cells, len(found[DEFAULT]))
        if count >= _LEAST:
            progress(f"{variant.name}: {variant.what}")
            found[variant.name] = variant.score(order[:count], options.scores, data)
    return found


def study_scores(path: Path, order: Sequence[Cell]) -> list[Scores]:
    """Scores by the default config of the first cells in an order, as far as a study has them.

    Raises:
        ValueError: the study is of another config or order, or has too few cells.
    """
    study = ScoreFile.read(path)
    _check_config(study, str(path))
    if study.setting.seed != 0:
        raise ValueError(f"{path} is not of seed 0")
    known = itertools.takewhile(lambda cell: cell.index in study.rows, order)
    found = [study.rows[cell.index].scores for cell in known]
    if len(found) < _LEAST:
        raise ValueError(f"{path} has the first {len(found)} cells; {_LEAST} are needed")
    return found


def _check_config(study: ScoreFile, name: str) -> None:
    config = json_format.MessageToDict(config_message(_CONFIG, SPACE))
    if study.setting.config != config:
        raise ValueError(f"{name} is not of the config {json.dumps(config)}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--study", type=Path, required=True, metavar="PARQUET", help="scores by the default config")
    parser.add_argument("--whole", type=Path, metavar="PARQUET", help="scores of all cells by the default config")
    parser.add_argument("--published", type=Path, metavar="CSV", help="scores published with NASLib")
    parser.add_argument("--accuracies", type=Path, required=True, metavar="CSV", help="test accuracies")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=f"where {CIFAR10} and {CIFAR100} are")
    parser.add_argument("--scores", type=Path, default=Path("ablations"), metavar="DIR", help="where scores are kept")
    parser.add_argument("--cells", type=int, default=150, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--only", metavar="A,B", help="variants, by the names of their files (default: all)")
    parser.add_argument("--report-only", action="store_true", help="score nothing more")
    parser.add_argument("--extend", action="store_true", help="keep what the file of --json has of other variants")
    parser.add_argument("--resamples", type=int, default=500, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--document", action="store_true", help=f"write {_PAGE.relative_to(_ROOT)}")
    options = parser.parse_args(argv)
    if options.extend and not options.json:
        parser.error("--extend goes with --json")
    options.variants = variants(_CONFIG)
    if options.only:
        wanted = options.only.split(",")
        unknown = set(wanted) - {variant.name for variant in options.variants}
        if unknown:
            parser.error(f"unknown variants: {', '.join(sorted(unknown))}")
        options.variants = [variant for variant in options.variants if variant.name in wanted]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Scores, compares, reports."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    by_column = read_csv(options.accuracies)
    measured = measure(options.variants, options)
    order = random_cells(len(measured[DEFAULT]), seed=0)
    accuracies = np.array([[by_column[column][cell.index] for column in COLUMNS] for cell in order])
    present = [variant for variant in options.variants if variant.name in measured]
    report = {
        "environment": environment(scipy=scipy.__version__),
        "paper": SOURCE,
        "default": asdict(_CONFIG),
        "variants": {variant.name: asdict(variant.config) for variant in present},
        "resamples": options.resamples,
        "rows": [compared(row, measured, accuracies, options.resamples) for row in rows(present)],
        "samples": samples(measured, accuracies, options.resamples),
        "whole_space": whole_space(by_column, ScoreFile.read(options.whole) if options.whole else None),
        "published": published(options.published, by_column, options.resamples) if options.published else {},
    }
    if options.extend:
        report = extended(report, json.loads(options.json.read_text(encoding="utf-8")))
    print(markdown(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.document:
        document(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
