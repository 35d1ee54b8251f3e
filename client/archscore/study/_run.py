"""What `archscore study` does."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from archscore.client import Client
from archscore.errors import UsageError
from archscore.study import _scoring


def nasbench201(arguments: argparse.Namespace, connect: Callable[[], Client]) -> int:
    """Scores cells of NAS-Bench-201.

    Args:
        arguments: of the command line.
        connect: makes the client of the server that they name.

    Returns:
        The exit code: 1 if a cell could not be scored.
    """
    with _source(arguments, connect) as source:
        failures = _scoring.complete(source, arguments.scores, arguments.cells, sys.stderr)
    return int(failures > 0)


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
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--proxies names none")
    return names


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
