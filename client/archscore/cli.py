"""The command line, `archscore`.

Data goes to stdout, everything else to stderr. Exit codes: 0 all scored, 1 some architecture failed, 2 usage or the
request was refused, 3 the server cannot be reached; 130 after Ctrl-C, 141 when the reader of stdout has gone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from archscore import __version__, _study
from archscore._retry import MAX_SECONDS
from archscore.errors import ArchitectureError, ArchscoreError, DeadlineExceededError, UnavailableError, UsageError
from archscore.search import _command as _search

if TYPE_CHECKING:
    from archscore.client import Client

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_REFUSED: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141

_CONNECT_TIMEOUT: Final = 5.0
"""Seconds to wait for a server that does not answer at all: somebody watches."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    if sys.stderr is None:  # It was closed before we started: nobody wants to know.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # What a terminal cannot show must not end the run.
            stream.reconfigure(errors="backslashreplace")
    try:
        if sys.stdout is None:
            raise UsageError("cannot write: stdout is closed")
        code = _run(arguments)
        sys.stdout.flush()
    except ArchscoreError as error:
        _complain(str(error))
        return _exit_code(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out; let that go nowhere.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        _complain(str(error))
        return EXIT_REFUSED
    return code


def _run(arguments: argparse.Namespace) -> int:
    # gRPC logs to stderr on its own account; errors say what we need. Before its import, which is also a slow one.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if arguments.command == "study":
        return _study.run(arguments, lambda: _client(arguments))
    from archscore import _commands

    command: Callable[[Client, argparse.Namespace], int] = getattr(_commands, arguments.command)
    with _client(arguments) as client:
        return command(client, arguments)


def _client(arguments: argparse.Namespace) -> Client:
    from archscore import _security
    from archscore.client import Client

    timeout = {} if arguments.timeout is None else {"timeout": arguments.timeout}
    return Client(
        arguments.server,
        connect_timeout=_CONNECT_TIMEOUT,
        client_id=arguments.client_id,
        credentials=_security.tls_credentials(arguments.ca, arguments.cert, arguments.key),
        token=None if arguments.token_file is None else _security.read_token(arguments.token_file),
        **timeout,
    )


def _exit_code(error: ArchscoreError) -> int:
    if isinstance(error, (UnavailableError, DeadlineExceededError)):
        return EXIT_UNREACHABLE
    return EXIT_FAILED if isinstance(error, ArchitectureError) else EXIT_REFUSED


def _complain(message: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"archscore: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="where the server listens (default: $ARCHSCORE_SERVER, or localhost:50051)",
    )
    common.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="for a chunk of architectures (default: 600), or for a look-up (default: 30)",
    )
    common.add_argument(
        "--client-id",
        metavar="ID",
        help="who asks: clients that share an id share a turn at the server (default: $ARCHSCORE_CLIENT_ID)",
    )
    common.add_argument(
        "--ca",
        metavar="FILE",
        help="root certificates to trust (PEM), or system for the public ones: use TLS (default: $ARCHSCORE_CA)",
    )
    common.add_argument(
        "--cert", metavar="FILE", help="client certificate (PEM), for mutual TLS (default: $ARCHSCORE_CERT)"
    )
    common.add_argument("--key", metavar="FILE", help="key of the client certificate (default: $ARCHSCORE_KEY)")
    common.add_argument(
        "--token-file", metavar="FILE", help="the token is its first line (default: $ARCHSCORE_TOKEN, the token itself)"
    )
    connection = argparse.ArgumentParser(add_help=False, allow_abbrev=False, parents=[common])
    common.add_argument("--json", action="store_true", help="print messages in the proto3 JSON mapping, one a line")

    space = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    space.add_argument("--space", default="nasbench201", help="search space of the encodings (default: %(default)s)")
    space.add_argument("--config", metavar="JSON", help="an EvaluationConfig in the proto3 JSON mapping")

    parser = argparse.ArgumentParser(
        prog="archscore", description="Zero-cost scores for untrained neural architectures.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"archscore {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    score = commands.add_parser("score", parents=[common, space], help="score architectures", allow_abbrev=False)
    score.add_argument("encodings", nargs="*", metavar="ENCODING", help="architectures to score")
    score.add_argument("--file", metavar="FILE", help="read encodings from a file, one a line; - is stdin")
    score.add_argument("--proxies", required=True, metavar="A,B,...", help="names of proxies; see archscore proxies")
    score.add_argument("--priority", choices=["bulk", "default", "interactive"], help="how urgent it is")
    score.add_argument(
        "--chunk-size", type=_count, default=64, metavar="N", help="architectures in a request (default: %(default)s)"
    )
    describe = commands.add_parser(
        "describe", parents=[common, space], help="say what an architecture consists of and costs", allow_abbrev=False
    )
    describe.add_argument("encoding", metavar="ENCODING", help="the architecture")
    for name, help_text in (
        ("proxies", "list the proxies that the server computes"),
        ("spaces", "list the search spaces that the server knows"),
        ("info", "say what runs at the server"),
    ):
        commands.add_parser(name, parents=[common], help=help_text, allow_abbrev=False)
    _search.add_parser(commands, [connection])
    _study.add_parser(commands, common, count=_count)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number: {text!r}") from None
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be positive: {text!r}")
    if seconds > MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_SECONDS}, which is a year: {text!r}")
    return seconds


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer: {text!r}") from None
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: {text!r}")
    return count


if __name__ == "__main__":
    sys.exit(main())
