"""`archscore search`: its options, and what it does with them."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from archscore.errors import ArchscoreError, UsageError
from archscore.search._checkpoint import CHECKPOINT
from archscore.search._constraints import Constraints
from archscore.search._display import display_on
from archscore.search._elimination import Elimination
from archscore.search._evolution import RegularisedEvolution
from archscore.search._history import History, Ranked
from archscore.search._local import LocalSearch
from archscore.search._objective import CELL_OBJECTIVE, DEFAULT_OBJECTIVE
from archscore.search._record import OK
from archscore.search._results import scored, summary, write_results
from archscore.search._run import run_search
from archscore.search._screening import Screening
from archscore.search._settings import (
    DEFAULT_BATCH,
    STRATEGIES,
    Settings,
    default_constraints,
    default_proxies,
    default_strategy,
)
from archscore.search._strategy import Strategy
from archscore.spaces import SPACES, zennas

if TYPE_CHECKING:
    from archscore.client import Client

DEFAULT_EVALUATIONS: Final = 1000
_ROOT: Final = Path("archscore-search")
_SHOWN: Final = 10
_OPTIONS: Final[Mapping[str, Sequence[str]]] = {
    "population": (RegularisedEvolution.name, Elimination.name),
    "tournament": (RegularisedEvolution.name,),
    "patience": (LocalSearch.name,),
    "screen": (Screening.name,),
    "keep": (Screening.name,),
}
"""The strategies that each option goes with."""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], parents: Sequence[argparse.ArgumentParser]
) -> None:
    """Adds the subcommand.

    Args:
        commands: the subcommands of `archscore`.
        parents: options that it shares with others: those of the connection.
    """
    parser = commands.add_parser(
        "search", parents=list(parents), help="search for architectures by their scores", allow_abbrev=False
    )
    parser.add_argument("--space", choices=sorted(SPACES), default="nasbench201", help="(default: %(default)s)")
    parser.add_argument(
        "--proxy",
        metavar="A,B,...",
        help="what to search for: a proxy, or several by their rank sum "
        f"(default for cells: {','.join(CELL_OBJECTIVE)}; else {','.join(DEFAULT_OBJECTIVE)})",
    )
    parser.add_argument("--config", metavar="JSON", help="an EvaluationConfig in the proto3 JSON mapping")
    parser.add_argument(
        "--strategy", choices=STRATEGIES, help="how to search (default: elimination for zennas, else evolution)"
    )
    parser.add_argument(
        "--evaluations",
        type=_whole,
        default=DEFAULT_EVALUATIONS,
        metavar="N",
        help="architectures to evaluate; of a screening, those of its first stage (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the search, not of the scores (default: %(default)s)")
    parser.add_argument(
        "--batch",
        type=_whole,
        default=DEFAULT_BATCH,
        metavar="N",
        help="evaluations under way at a time, which is part of what is found (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="default: archscore-search/SPACE-PROXY-STRATEGY-seedN"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the search in the output directory, if any")
    parser.add_argument("--force", action="store_true", help="put this search in the place of one that is there")
    parser.add_argument("--json", action="store_true", help="print the summary of what was found, as JSON")
    limits = parser.add_argument_group("constraints", "counted with residual links, whatever scores are taken with")
    budget = zennas.CIFAR_BUDGET
    limits.add_argument(
        "--max-parameters", type=_whole, metavar="N", help=f"(default for zennas: {budget.max_parameters})"
    )
    limits.add_argument("--max-flops", type=_whole, metavar="N", help="multiply-accumulates for one image")
    limits.add_argument("--max-layers", type=_whole, metavar="N", help="convolutions and linear layers")
    limits.add_argument(
        "--max-sub-layers", type=_whole, metavar="N", help=f"zennas only (default: {budget.max_sub_layers})"
    )
    how = parser.add_argument_group("options of strategies")
    how.add_argument(
        "--population", type=_whole, metavar="N", help="evolution (default: 100), elimination (default: 512)"
    )
    how.add_argument("--tournament", type=_whole, metavar="N", help="evolution: draws for a parent (default: 25)")
    how.add_argument("--patience", type=_whole, metavar="N", help="local: failures before a restart (default: 24)")
    how.add_argument(
        "--screen",
        action="append",
        metavar="A,B,...",
        help="screening: proxies of a stage before the last; give it once for each stage (default: naswot)",
    )
    how.add_argument("--keep", type=float, metavar="SHARE", help="screening: what passes each stage (default: 0.1)")


def search(client: Client, arguments: argparse.Namespace) -> int:
    """Searches; 1 if nothing has a score."""
    from archscore._commands import _config, _notes

    if arguments.resume and arguments.force:
        raise UsageError("--resume and --force exclude each other")
    settings = Settings(
        space=arguments.space,
        evaluations=arguments.evaluations,
        proxies=default_proxies(arguments.space) if arguments.proxy is None else _names(arguments.proxy),
        strategy=_strategy(arguments),
        constraints=_constraints(arguments),
        seed=arguments.seed,
        batch=arguments.batch,
        config=_config(arguments),
    )
    directory: Path = arguments.output or _ROOT / "-".join(
        (settings.space, "+".join(settings.proxies), settings.strategy.name, f"seed{settings.seed}")
    )
    with display_on(sys.stderr) as display, _notes(display.note):
        try:
            history = run_search(
                client,
                settings,
                directory=directory,
                resume=arguments.resume,
                overwrite=arguments.force,
                on_record=display.update,
            )
        except (KeyboardInterrupt, ArchscoreError) as error:
            if not isinstance(error, UsageError) and (directory / CHECKPOINT).exists():
                display.note(f"archscore: {directory} has what was evaluated; the same command with --resume goes on")
            raise
    return _report(history, directory, as_json=arguments.json)


def _report(history: History, directory: Path, *, as_json: bool) -> int:
    """Writes the results, and prints the best."""
    missing = write_results(history, directory)
    if as_json:
        sys.stdout.write(f"{json.dumps(summary(history, _SHOWN))}\n")
    elif entries := list(itertools.islice(scored(history), _SHOWN)):
        sys.stdout.write(f"{_table(history, entries)}\n")
    for line in (*_findings(history), f"results are in {directory}", *missing):
        sys.stderr.write(f"archscore: {line}\n")
    return int(history.best is None)


def _table(history: History, entries: Sequence[Ranked]) -> str:
    """The best, with scores and sizes."""
    from archscore._table import format_table

    proxies = history.objective.proxies
    rank_sum = history.objective.is_rank_sum
    rows: list[tuple[object, ...]] = [
        (*(["rank sum"] if rank_sum else []), *proxies, "parameters", "flops", "evaluation", "architecture")
    ]
    for entry in entries:
        record = entry.record
        scores = (f"{record.scores[proxy]:.6g}" for proxy in proxies)
        rows.append(
            (
                *([f"{entry.fitness:.4f}"] if rank_sum else []),
                *scores,
                record.measures.parameters,
                record.measures.flops,
                record.index + 1,
                record.architecture,
            )
        )
    return format_table(rows)


def _findings(history: History) -> Iterator[str]:
    """What somebody should know of a search besides what it found."""
    without = {outcome: count for outcome, count in history.outcomes.items() if outcome != OK}
    if without:
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(without.items()))
        yield f"{sum(without.values()):,} of {len(history.records):,} architectures have no score: {counts}"
    if history.exhausted:
        yield f"nothing else within the constraints is left after {len(history.records):,} evaluations"
    if history.best is None:
        yield "nothing has a score"
    if len(history.fingerprints) > 1:
        changes = ", ".join(f"{index + 1:,}" for index, _ in history.fingerprints[1:])
        yield (
            f"the server became another one at evaluation {changes}, so that scores before and after may not compare: "
            "summary.json has the fingerprints"
        )


def _strategy(arguments: argparse.Namespace) -> Strategy:
    """The strategy that was asked for.

    Raises:
        UsageError: an option does not go with it, or has no such value.
    """
    name = arguments.strategy or default_strategy(arguments.space).name
    options = {option: getattr(arguments, option) for option in _OPTIONS}
    given = {option: value for option, value in options.items() if value is not None}
    kind = STRATEGIES[name]
    for option in given:
        if name not in _OPTIONS[option]:
            raise UsageError(f"--{option} goes with the strategy {' or '.join(_OPTIONS[option])}, not with {name}")
    if "screen" in given:
        given["screens"] = tuple(_names(screen) for screen in given.pop("screen"))
    try:
        return kind(**given)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _constraints(arguments: argparse.Namespace) -> Constraints:
    """The constraints that were asked for, and those that a space has if nothing is said."""
    given = {name: getattr(arguments, name) for name in ("max_parameters", "max_flops", "max_layers", "max_sub_layers")}
    said = {name: limit for name, limit in given.items() if limit is not None}
    return replace(default_constraints(arguments.space), **said)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _whole(text: str) -> int:
    """A positive integer, which may be written as 1e6."""
    try:
        number = float(text)
        whole = int(text) if text.isdigit() else int(number)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"must be an integer: {text!r}") from None
    if whole != number:
        raise argparse.ArgumentTypeError(f"must be an integer: {text!r}")
    if whole < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: {text!r}")
    return whole
