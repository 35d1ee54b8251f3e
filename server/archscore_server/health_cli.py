"""The command that asks the server on this machine whether it serves: `archscore-server health`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from archscore_server.config import Settings
from archscore_server.health_check import NoAnswerError, status

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = Settings()
_PORT = click.IntRange(1, 65_535)
_FILE = click.Path(dir_okay=False, path_type=Path)


class _NotServing(click.ClickException):
    """The server is not there, not ready, or about to leave."""

    exit_code = 1


def _option(name: str, **attributes: Any) -> Callable[[F], F]:
    """An option with the variable of the server's option of that name.

    click's own for `--port` would be ARCHSCORE_HEALTH_PORT, which is the variable of `--health-port`.
    """
    variable = "ARCHSCORE_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, allow_from_autoenv=False, **attributes)


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@_option("--host", default=_DEFAULTS.host, help="Address that the server listens on.")
@_option("--port", type=_PORT, default=_DEFAULTS.port, help="Port that it listens on.")
@_option("--health-port", type=_PORT, show_default="none", help="Port of its health alone, asked instead.")
@_option("--tls-certificate", type=_FILE, show_default="no TLS", help="Its certificate: the one that is trusted.")
@_option("--tls-client-ca", type=_FILE, show_default="clients need none", help="As given to it; needs --health-port.")
@_option("--health-timeout", type=click.FloatRange(min=0, min_open=True), default=5.0, help="Seconds to wait at most.")
def health(
    host: str,
    port: int,
    health_port: int | None,
    tls_certificate: Path | None,
    tls_client_ca: Path | None,
    health_timeout: float,
) -> None:
    """Asks the server on this machine whether it serves.

    For the probes of containers: options and variables are those that the server was started with, so that beside it
    none are needed. Prints SERVING and exits with 0, or says on stderr what is wrong and exits with 1.
    """
    if health_port is not None:
        port, tls_certificate = health_port, None
    elif tls_client_ca is not None:
        raise click.UsageError("a server that wants its clients' certificates can be asked on its --health-port only")
    try:
        answer = status(host, port, timeout=health_timeout, certificate=tls_certificate)
    except NoAnswerError as error:
        raise _NotServing(str(error)) from error
    if answer != "SERVING":
        raise _NotServing(answer)
    click.echo(answer)
