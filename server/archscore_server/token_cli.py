"""The commands that look after a token file: `archscore-server token`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from archscore_server.access import token_file, tokens
from archscore_server.access.errors import AccessError


class _Refused(click.ClickException):
    """Like a wrong option: nothing has been done."""

    exit_code = 2


def _check_name(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    if not tokens.is_name(name):
        raise click.BadParameter("a name is 1 to 64 of A-Z, a-z, 0-9, _ and -")
    return name


_tokens_option = click.option(
    "--tokens",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="ARCHSCORE_TOKENS",
    show_envvar=True,
    required=True,
    help="The token file.",
)
_name_argument = click.argument("name", callback=_check_name)


@click.group(context_settings={"max_content_width": 100})
def token() -> None:
    """Looks after the tokens that clients need. Running servers notice at once.

    Exits with 2 when nothing has been done.
    """


@token.command()
@_tokens_option
@_name_argument
def add(path: Path, name: str) -> None:
    """Adds a token and prints it; the file keeps a hash, and the token cannot be had again.

    NAME is what logs and metrics call who has the token. The file is made if it is not there.
    """
    with _refusals():
        click.echo(token_file.add(path, name))


@token.command("list")
@_tokens_option
def list_names(path: Path) -> None:
    """Prints the names of the tokens, one a line."""
    with _refusals():
        for name in token_file.read(path):
            click.echo(name)


@token.command()
@_tokens_option
@_name_argument
def revoke(path: Path, name: str) -> None:
    """Removes a token: calls with it are refused from now on, and those in progress are finished."""
    with _refusals():
        token_file.revoke(path, name)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns what goes wrong into messages."""
    try:
        yield
    except AccessError as error:
        raise _Refused(str(error)) from error
