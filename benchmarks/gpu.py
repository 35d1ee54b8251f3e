"""Everything that there is to know of a GPU, in one table, in less than ten minutes.

    PYTHONPATH=client:server python benchmarks/gpu.py --json docs/benchmarks/gpu.json

Ceilings of the device, the reference scores, networks a second by batch and stack size, the plain loop and the toolkit
of T-CET's authors beside it, single layers in the forms that they could take, Zen with its repeats stacked and looped,
TF32, and the service. The engine's part needs only torch and NumPy: what else is missing is skipped, and the table says
so, as it does of what there is no time for.
With `--device cpu --quick` it runs anywhere, on sizes that mean nothing.

The JSON is written after each section, so that a run that is cut off leaves what it has.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import _gpu_sections as sections
from _gpu_forms import forms
from _gpu_run import QUICK, Budget, Row, Run, Setting
from _gpu_sections import Section
from _report import environment, progress
from archscore.spaces.nasbench201 import parse
from archscore_server.engine._device import resolved
from references import toolkit
from score_nasbench201 import CELLS

#: Part of the time that each section may take, in order; what one leaves the next ones have.
SHARES: Mapping[str, float] = {
    "ceilings": 0.04,
    "golden": 0.14,
    "stacks": 0.32,
    "pipeline": 0.02,
    "forms": 0.02,
    "opponents": 0.14,
    "zen": 0.05,
    "tf32": 0.07,
    "service": 0.20,
}


def measure(run: Run, wanted: Sequence[str], directory: Path, keep: Any) -> list[Row]:
    """Runs the sections; one that fails is a row that says so.

    Args:
        run: where, how large and how long.
        wanted: names of sections.
        directory: where the toolkit is, or is put.
        keep: called with all rows after each section.
    """
    functions: dict[str, Section] = {
        "ceilings": sections.ceilings,
        "golden": sections.golden,
        "stacks": sections.stacks,
        "pipeline": sections.pipeline,
        "forms": forms,
        "opponents": partial(sections.opponents, directory=directory),
        "zen": sections.zen,
        "tf32": sections.tf32,
        "service": sections.service,
    }
    rows: list[Row] = []
    for name, share in SHARES.items():
        run.budget.open(share)
        if name not in wanted:
            continue
        try:
            for row in functions[name](run):
                progress(line(row))
                rows.append(row)
        except Exception as error:  # noqa: BLE001 -- what the other sections find is not lost
            rows.append(Row(name, "all of it", note=f"failed: {type(error).__name__}: {error}", fault=True))
            progress(line(rows[-1]))
        keep(rows)
    return rows


def line(row: Row) -> str:
    """A row for people."""
    figure = "" if row.value is None else f"{row.value:.4g}"
    return f"{row.section:<10} {row.what:<42} {figure:>10} {row.unit:<12} {row.note}".rstrip()


def describe(device: torch.device) -> dict[str, Any]:
    """What figures depend on besides the code."""
    if device.type != "cuda":
        return environment(device="cpu")
    properties = torch.cuda.get_device_properties(device)
    return environment(
        device=properties.name,
        devices=torch.cuda.device_count(),
        device_memory=properties.total_memory,
        multiprocessors=properties.multi_processor_count,
        capability=list(torch.cuda.get_device_capability(device)),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        alethiometer=toolkit.VERSION,
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="how long it may take")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything works")
    parser.add_argument("--only", default=",".join(SHARES), metavar="SECTION,...", help=f"of {', '.join(SHARES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument(
        "--toolkit", type=Path, default=Path(".cache/toolkit"), metavar="DIR", help="where the toolkit is, or is put"
    )
    options = parser.parse_args(argv)
    options.only = options.only.split(",")
    if not set(options.only) <= set(SHARES):
        parser.error(f"sections are {', '.join(SHARES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --quick runs without one")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the table, and says whether everything is as it should be."""
    options = arguments(argv)
    device = resolved(options.device)
    setting = QUICK if options.quick else Setting()
    report: dict[str, Any] = {"environment": describe(device), "setting": asdict(setting), "minutes": options.minutes}

    def keep(rows: Sequence[Row]) -> None:
        if options.json:
            content = {**report, "cells": CELLS[: setting.cells], "rows": [asdict(row) for row in rows]}
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    budget = Budget(60 * options.minutes)
    run = Run(device, setting, budget, [parse(encoding) for encoding in CELLS[: setting.cells]])
    rows = measure(run, options.only, options.toolkit, keep)
    print(", ".join(f"{name} {value}" for name, value in report["environment"].items()))
    print("\n".join(map(line, rows)))
    print(f"{budget.clock() - budget.started:.0f} s")
    return int(any(row.fault for row in rows))


if __name__ == "__main__":
    sys.exit(main())
