"""The command line of the server: `archscore-server`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from archscore._version import __version__
from archscore_server import logs, standard_streams
from archscore_server.admission import MAX_WORK
from archscore_server.app import Server, StartError, address
from archscore_server.config import Limits, Settings
from archscore_server.engine import stack_sizes
from archscore_server.health_cli import health
from archscore_server.run import serve
from archscore_server.store_cli import store
from archscore_server.token_cli import token
from archscore_server.tune_cli import tune

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = Settings()

#: Options for Limits: name, field, the largest value that makes sense, and help.
_LIMITS = (
    ("limit-architectures", "max_architectures_per_request", 1_000_000, "Architectures in one request at most."),
    ("limit-batch-size", "max_batch_size", 65_536, "Images in a minibatch at most."),
    ("limit-resolution", "max_resolution", 4_096, "Side of the input images at most, in pixels."),
    ("limit-num-classes", "max_num_classes", 10_000, "Classes at most."),
    ("limit-repeats", "max_repeats", 2**16, "Seeds that a score is the mean of at most."),
    ("limit-channels", "max_channels", 4_096, "Channels of the first stage at most (NAS-Bench-201)."),
    ("limit-cells", "max_cells_per_stage", 1_000, "Cells in a stage at most (NAS-Bench-201)."),
    ("limit-message-bytes", "max_message_bytes", 2**30, "Size of a message at most."),
    ("limit-encoding-length", "max_encoding_length", 2**20, "Characters of an encoding at most."),
    # Widths of layers are uint32 in the contract, and none is larger than the number of parameters.
    ("limit-parameters", "max_parameters", 2**32 - 1, "Parameters of a network at most."),
    ("limit-flops", "max_flops", 2**63 - 1, "Multiply-accumulates of a network for one image at most."),
    ("limit-layers", "max_layers", 20_000, "Convolutions and linear layers of a network at most."),
    ("limit-bytes", "max_bytes", 2**63 - 1, "Memory that evaluating one network may take at most, in bytes."),
    ("limit-work", "max_work", 2**63 - 1, "Multiply-accumulates that evaluating one network may take at most, in all."),
    ("limit-in-flight", "max_in_flight_per_client", 2**31, "Architectures of one client without a result at most."),
    ("max-queued", "max_queued_architectures", 2**31, "Architectures that may wait at a time."),
)


#: What is said of limits that depend on the workers if they are not set.
_BY_WORKERS = {
    "max_bytes": "what a worker has",
    "max_work": ", ".join(f"{most:,} on {kind}" for kind, most in MAX_WORK.items()),
}


class _CannotStart(click.ClickException):
    """Like a wrong option: nothing has been done, and the message says what to change."""

    exit_code = 2


def _limit_options(command: F) -> F:
    for option, field, largest, text in reversed(_LIMITS):
        default = getattr(_DEFAULTS.limits, field)
        shown = _BY_WORKERS.get(field, True)
        command = click.option(
            f"--{option}", type=click.IntRange(1, largest), default=default, show_default=shown, help=text
        )(command)
    return command


_FILE = click.Path(dir_okay=False, path_type=Path)
_PORT = click.IntRange(0, 65_535)
_COUNT = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0)
_POSITIVE_SECONDS = click.FloatRange(min=0, min_open=True)


@click.group(
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "ARCHSCORE", "show_default": True, "max_content_width": 100},
)
@click.version_option(__version__, prog_name="archscore-server")
@click.option("--host", default=_DEFAULTS.host, help="Address that gRPC listens on.")
@click.option("--port", type=_PORT, default=_DEFAULTS.port, help="Port that gRPC listens on; 0 takes a free one.")
@click.option("--metrics-host", default=_DEFAULTS.metrics_host, help="Address of the Prometheus page.")
@click.option(
    "--metrics-port",
    type=_PORT,
    default=_DEFAULTS.metrics_port,
    help="Port of the Prometheus page; 0 takes a free one.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default=_DEFAULTS.device,
    help="Where to evaluate; auto takes the GPUs if there are any.",
)
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory with the real datasets.",
)
@click.option("--workers", type=_COUNT, show_default="one per GPU; on CPU the best split", help="Worker processes.")
@click.option("--threads", type=_COUNT, show_default="the cores over the workers", help="CPU threads of each worker.")
@click.option("--max-batch", type=_COUNT, show_default="by device", help="Architectures in a batch at most.")
@click.option(
    "--stack-size",
    type=click.IntRange(1, stack_sizes.MOST),
    show_default="as measured by archscore-server tune, else by device",
    help="Networks evaluated side by side, if they fit; no more than are in a batch.",
)
@click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="$XDG_CACHE_HOME/archscore or ~/.cache/archscore",
    help="Directory with the stack sizes that archscore-server tune has measured.",
)
@click.option(
    "--batch-delay",
    type=_SECONDS,
    default=_DEFAULTS.batch_delay,
    help="Seconds to wait for more before a batch starts that is not full.",
)
@click.option(
    "--heartbeat-timeout",
    type=_POSITIVE_SECONDS,
    default=_DEFAULTS.heartbeat_timeout,
    help="Seconds of silence after which a worker is taken to hang, and replaced.",
)
@click.option(
    "--batch-timeout",
    type=_POSITIVE_SECONDS,
    default=_DEFAULTS.batch_timeout,
    help="Seconds that a batch gets at least, whatever it should take, before its worker is taken to hang.",
)
@click.option(
    "--store",
    type=_FILE,
    show_default="in memory only",
    help="File in which scores are kept, made if it is not there.",
)
@click.option(
    "--max-stored-scores",
    type=_COUNT,
    default=_DEFAULTS.max_stored_scores,
    help="Scores that are kept at most; the least recently used go first.",
)
@click.option(
    "--lame-duck",
    type=_SECONDS,
    default=_DEFAULTS.lame_duck,
    help="Seconds after SIGTERM in which requests are still taken, while health says NOT_SERVING.",
)
@click.option(
    "--grace",
    type=_SECONDS,
    default=_DEFAULTS.grace,
    help="Seconds that work in progress may take after that, or after SIGINT. A second signal stops at once.",
)
@click.option(
    "--write-timeout",
    type=_POSITIVE_SECONDS,
    default=_DEFAULTS.write_timeout,
    help="Seconds after which a stream is ended whose client does not read.",
)
@click.option(
    "--health-port",
    type=_PORT,
    show_default="none",
    help="Port on which health alone is served, without TLS; 0 takes a free one.",
)
@click.option(
    "--tls-certificate",
    type=_FILE,
    show_default="no TLS",
    help="The server's certificate in PEM, with those of intermediate CAs.",
)
@click.option("--tls-key", type=_FILE, help="Its key in PEM, not encrypted.")
@click.option(
    "--tls-client-ca",
    type=_FILE,
    show_default="clients need none",
    help="CAs in PEM, of one of which each client needs a certificate.",
)
@click.option(
    "--tokens",
    type=_FILE,
    show_default="clients need none",
    help="File of tokens of which each client needs one; see archscore-server token.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Listen elsewhere than on loopback without TLS, or without tokens or clients' certificates.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="Least level logged."
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    help="For people or for programs; auto is for people on a terminal only.",
)
@_limit_options
@click.pass_context
def main(context: click.Context, /, log_level: str, log_format: logs.Style, **options: Any) -> None:
    """Serves zero-cost scores of neural architectures over gRPC.

    Every option can be set by an environment variable: ARCHSCORE_ and its name, as in ARCHSCORE_METRICS_PORT. One line
    on stdout says where the server listens once it is ready; the log goes to stderr. Exits with 0 when it was stopped
    by a signal, with 2 when it cannot start.
    """
    if context.invoked_subcommand:
        return
    limits = Limits(**{field: options.pop(option.replace("-", "_")) for option, field, _, _ in _LIMITS})
    settings = Settings(**options, limits=limits)
    logs.configure(log_level.upper(), style=log_format)

    def announce(server: Server) -> None:
        listening = address(settings.host, server.port)
        metrics = address(settings.metrics_host, server.metrics_port)
        health = f" health on {address(settings.host, server.health_port)}" if server.health_port else ""
        standard_streams.say(f"archscore-server listening on {listening} metrics on {metrics}{health}")

    try:
        asyncio.run(serve(settings, announce))
    except StartError as error:
        raise _CannotStart(str(error)) from error


main.add_command(health)
main.add_command(store)
main.add_command(token)
main.add_command(tune)
