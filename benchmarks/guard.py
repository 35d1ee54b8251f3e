"""Whether the engine has become slower: its ratios to the plain loop beside those on record.

    python benchmarks/guard.py

Scores some of the cells of score_nasbench201.py with archscore and with the plain loop, in one run and by turns, and
compares seconds of the plain loop over seconds of archscore with what the record says of the same cells. Exits 1 if a
workload has lost more than it may. Machines differ in these ratios, too: with a record of another kind of machine a
loss is a reason to measure, not a proof; `make bench` makes a new record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from _report import environment, progress
from archscore.spaces.nasbench201 import parse
from score_nasbench201 import BUNDLE, Seconds, Setting, archscore_system, measure, plain_loop_system

RECORD = Path(__file__).parents[1] / "docs/benchmarks/nasbench201-cpu.json"
GUARDED = ("tcet", BUNDLE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a workload compares with the record.

    Attributes:
        workload: its name.
        recorded: seconds of the plain loop over seconds of archscore, on record.
        measured: the same, now.
        allowed: the part of the recorded ratio that may be lost.
    """

    workload: str
    recorded: float
    measured: float
    allowed: float

    @property
    def loss(self) -> float:
        """The part of the recorded ratio that is lost; negative where there is a gain."""
        return 1 - self.measured / self.recorded

    @property
    def passed(self) -> bool:
        """Whether no more is lost than may be."""
        return self.loss <= self.allowed

    def __str__(self) -> str:
        """One line for people."""
        word = "ok" if self.passed else "LOST"
        return (
            f"{self.workload:<8} plain loop / archscore: {self.recorded:.2f} on record, {self.measured:.2f} now, "
            f"{-self.loss:+.1%} (at most {-self.allowed:.0%}): {word}"
        )


def ratio(seconds: Mapping[str, Sequence[Sequence[float]]], cells: Sequence[int]) -> float:
    """Seconds of the plain loop over those of archscore, means over some cells of medians over the repetitions.

    Args:
        seconds: by system, cell and repetition.
        cells: which cells.
    """
    plain, own = (fmean(median(seconds[name][cell]) for cell in cells) for name in ("plain_loop", "archscore"))
    return plain / own


def verdicts(measured: Seconds, record: Mapping[str, Any], cells: Sequence[int], allowed: float) -> list[Verdict]:
    """Compares what was measured on some of the record's cells with the record.

    Args:
        measured: seconds by workload, system, cell and repetition.
        record: what score_nasbench201.py has written.
        cells: where the measured cells are in the record.
        allowed: the part of a ratio that may be lost.
    """
    return [
        Verdict(name, ratio(record["seconds"][name], cells), ratio(by_system, range(len(cells))), allowed)
        for name, by_system in measured.items()
    ]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE", help="of score_nasbench201.py --json")
    parser.add_argument("--cells", type=int, default=6, metavar="N", help="of the record, evenly spread")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    parser.add_argument("--allowed-loss", type=float, default=0.15, metavar="PART", help="of a ratio on record")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, compares, and says whether something was lost."""
    options = arguments(argv)
    record = json.loads(options.record.read_text(encoding="utf-8"))
    total = len(record["cells"])
    if not 1 <= options.cells <= total:
        progress(f"--cells must be between 1 and {total}")
        return 2
    # With as many threads as the record has: a ratio depends on them.
    torch.set_num_threads(record["environment"]["threads"])
    if record["environment"]["cpu"] != environment()["cpu"]:
        progress(f"the record is of another machine: {record['environment']['cpu']}")
    setting = Setting(**record["setting"])
    systems = {"archscore": archscore_system(setting), "plain_loop": plain_loop_system(setting)}
    chosen = [index * total // options.cells for index in range(options.cells)]
    measured, _ = measure(systems, [parse(record["cells"][index]) for index in chosen], options.repetitions, GUARDED)
    found = verdicts(measured, record, chosen, options.allowed_loss)
    for verdict in found:
        print(verdict)
    return int(not all(verdict.passed for verdict in found))


if __name__ == "__main__":
    sys.exit(main())
