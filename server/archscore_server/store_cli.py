"""The commands that look after a store file: `archscore-server store`."""

from __future__ import annotations

import contextlib
import csv
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import click

from archscore_server.store import NotAStoreError, upkeep
from archscore_server.store.upkeep import Selection

_SECONDS_PER_DAY = 86_400


class _NoStore(click.ClickException):
    """Like a wrong option: nothing has been done."""

    exit_code = 2


_store_option = click.option(
    "--store",
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="ARCHSCORE_STORE",
    show_envvar=True,
    required=True,
    help="The store.",
)


@click.group(context_settings={"show_default": True, "max_content_width": 100})
def store() -> None:
    """Looks after a score store. Servers may use it meanwhile.

    Exits with 2 when there is no such store, with 1 when something else fails.
    """


@store.command()
@_store_option
def stats(path: Path) -> None:
    """Says what is stored."""
    with _opened(path, upkeep.open_for_reading) as connection:
        found = upkeep.stats(connection, path)
    facts = (
        ("file", str(path)),
        ("size", f"{found.file_bytes / 2**20:,.1f} MiB"),
        ("scores", f"{found.scores:,}"),
        ("architectures", f"{found.architectures:,}"),
        ("contexts", f"{found.contexts:,}"),
        ("oldest use", _date(found.oldest_use)),
        ("newest use", _date(found.newest_use)),
    )
    for name, value in facts:
        click.echo(f"{name:<14} {value}")
    if found.groups:
        click.echo()
        _echo_table(
            ("space", "proxy", "version", "outcome", "scores"),
            [
                (space, proxy, str(version), outcome, f"{scores:,}")
                for space, proxy, version, outcome, scores in found.groups
            ],
        )


@store.command()
@_store_option
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", help="Of the output.")
@click.option(
    "--output",
    type=click.File("w", encoding="utf-8", lazy=True),
    default="-",
    show_default="stdout",
    help="Where to write.",
)
def export(path: Path, form: str, output: TextIO) -> None:
    """Writes out all scores as of now, one a row, with all that each depends on."""
    with _opened(path, upkeep.open_for_reading) as connection:
        if form == "jsonl":
            for row in upkeep.rows(connection):
                output.write(f"{upkeep.json_line(row)}\n")
        else:
            writer = csv.writer(output, lineterminator="\n")
            writer.writerow(upkeep.COLUMNS)
            writer.writerows(upkeep.rows(connection))


@store.command()
@_store_option
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Keep the N that were used last.")
@click.option("--unused-for", type=click.FloatRange(min=0), metavar="DAYS", help="Only what was not used for so long.")
@click.option("--proxy", "proxies", multiple=True, metavar="NAME", help="Only scores of this proxy; can be repeated.")
@click.option(
    "--other-versions",
    is_flag=True,
    help="Only scores of other versions of proxies, or of torch, than are installed here.",
)
def prune(
    path: Path, keep: int | None, unused_for: float | None, proxies: tuple[str, ...], other_versions: bool
) -> None:
    """Removes scores and gives their space back.

    What every option given applies to is removed; --keep spares those of it that were used last.
    """
    if keep is None and unused_for is None and not proxies and not other_versions:
        raise click.UsageError("Say what to remove: --keep, --unused-for, --proxy or --other-versions.")
    selection = Selection(
        unused_since=None if unused_for is None else time.time() - unused_for * _SECONDS_PER_DAY,
        proxies=proxies,
        other_versions=other_versions,
        keep=keep,
    )
    with _opened(path, upkeep.open_for_pruning) as connection:
        removed, left = upkeep.prune(connection, selection)
    click.echo(f"removed {removed:,} scores, {left:,} are left")


@contextlib.contextmanager
def _opened(path: Path, connect: Callable[[Path], sqlite3.Connection]) -> Iterator[sqlite3.Connection]:
    """Opens a store for a command and turns what goes wrong into messages."""
    if not path.is_file():
        raise _NoStore(f"there is no store {path}")
    try:
        connection = connect(path)
    except (NotAStoreError, sqlite3.Error) as error:
        raise _NoStore(f"{path} is no store that can be opened: {error}") from error
    try:
        yield connection
    except sqlite3.Error as error:
        raise click.ClickException(f"{path}: {error}") from error
    finally:
        connection.close()


def _date(seconds: int | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _echo_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Prints columns, the last one to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        *names, number = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join([*names, number.strip().rjust(widths[-1])]))
