"""What `archscore study` does."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from archscore.client import Client
from archscore.errors import UsageError
from archscore.study import _accuracies, _plots, _scoring, _tables
from archscore.study._accuracies import Accuracies
from archscore.study._file import ScoreFile
from archscore.study._page import write_section
from archscore.study._rank_sums import Choice
from archscore.study._study import Study


def nasbench201(arguments: argparse.Namespace, connect: Callable[[], Client]) -> int:
    """Scores cells of NAS-Bench-201, and reports how well the scores rank them.

    Args:
        arguments: of the command line.
        connect: makes the client of the server that they name.

    Returns:
        The exit code: 1 if a cell could not be scored.
    """
    accuracies = _accuracies_of(arguments)  # first, since whatever is wrong with them is wrong before hours of scoring
    failures = 0
    if not arguments.report_only:
        with _source(arguments, connect) as source:
            failures = _scoring.complete(source, arguments.scores, arguments.cells, sys.stderr)
    study = Study.join(ScoreFile.read(arguments.scores), accuracies, arguments.resamples)
    _say(f"ranking {len(study.rows):,} cells by {len(study.names)} proxies, {study.resamples} resamples")
    choice = None
    if arguments.rank_sums is not None:
        _say(f"comparing rank sums of proxies that need {arguments.rank_sums}")
        choice = study.choice(_split(arguments.rank_sums))
    print(_tables.to_json(study, choice) if arguments.json else _tables.terminal(study, choice))  # noqa: T201
    if arguments.markdown is not None:
        _write_page(study, choice, arguments)
    return int(failures > 0)


def _write_page(study: Study, choice: Choice | None, arguments: argparse.Namespace) -> None:
    """Writes Markdown, and plots into a directory of the same name beside it."""
    path: Path = arguments.markdown
    plots = _plots.draw(study, path.with_suffix(""))
    links = {caption: file.relative_to(path.parent).as_posix() for caption, file in plots.items()}
    write_section(path, _tables.markdown(study, choice, commands=_commands(study, arguments), plots=links))


def _commands(study: Study, arguments: argparse.Namespace) -> list[str]:
    """How to get the same scores, and this report of them."""
    start = ["archscore", "study", "nasbench201"]
    setting = study.file.setting
    config = [] if arguments.config is None else ["--config", arguments.config]
    scoring = [*start, "--engine", "--cells", str(len(study.file.rows)), "--seed", str(setting.seed), *config]
    report = [*start, "--report-only", "--scores", _shown(arguments.scores), "--resamples", str(arguments.resamples)]
    for option, value in (("--accuracies", arguments.accuracies), ("--archive", arguments.archive)):
        report += [] if value is None else [option, _shown(value)]
    report += [] if arguments.rank_sums is None else ["--rank-sums", arguments.rank_sums]
    return [shlex.join(scoring), shlex.join([*report, "--markdown", _shown(arguments.markdown)])]


def _say(text: str) -> None:
    """Tells whoever waits; stdout is for the result."""
    sys.stderr.write(f"archscore: {text}\n")
    sys.stderr.flush()


def _shown(path: Path) -> str:
    """The path, but for where things are on this machine."""
    return path.name if path.is_absolute() else path.as_posix()


def _accuracies_of(arguments: argparse.Namespace) -> Accuracies:
    if arguments.accuracies is not None:
        return _accuracies.read_csv(arguments.accuracies)
    if arguments.archive is not None:
        return _accuracies.read_archive(arguments.archive)
    return _accuracies.read_package()


@contextlib.contextmanager
def _source(arguments: argparse.Namespace, connect: Callable[[], Client]) -> Iterator[_scoring.Source]:
    common: dict[str, Any] = {
        "proxies": _names(arguments.proxies),
        "config": _config(arguments.config),
        "seed": arguments.seed,
    }
    if arguments.engine:
        from archscore.study._engine import EngineSource

        yield EngineSource(
            **common,
            device=arguments.device,
            workers=arguments.workers,
            threads=arguments.threads,
            data_dir=arguments.data_dir,
        )
    else:
        from archscore.study._server import ServerSource

        with connect() as client:
            yield ServerSource(client, **common)


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = _split(text)
    if not names:
        raise UsageError("--proxies names none")
    return names


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _config(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"--config is not a JSON object: {text}")
    return config
