"""What the subcommands of `archscore` do, one function each, by name."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from archscore import _encodings
from archscore._progress import Progress
from archscore._requests import config_message
from archscore._results import Result
from archscore._table import ScoreTable, format_table
from archscore.client import Client
from archscore.errors import UsageError
from archscore.v1 import scoring_pb2


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _notes(show: Callable[[str], object] = _say) -> Iterator[None]:
    """Shows the client's warnings, such as of a server that went away."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: show(f"archscore: {record.getMessage()}")  # type: ignore[assignment,method-assign]
    logger = logging.getLogger("archscore")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def score(client: Client, arguments: argparse.Namespace) -> int:
    """Scores encodings given as arguments or in a file; 1 if some item failed."""
    if bool(arguments.encodings) == (arguments.file is not None):
        raise UsageError("score needs either encodings or --file")
    proxies = [name.strip() for name in arguments.proxies.split(",") if name.strip()]
    config = config_message(_config(arguments))
    table = None if arguments.json else ScoreTable(proxies, errors=config is not None and config.repeats > 1)

    failed = False
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_encodings.Source(arguments.encodings, arguments.file))
        visible = sys.stderr.isatty()
        progress = Progress(sys.stderr, total=source.count() if visible else None, visible=visible)
        stack.callback(progress.close)
        stack.enter_context(_notes(progress.note))
        results = client.score_many(
            source,
            proxies,
            space=arguments.space,
            config=config,
            priority=arguments.priority,
            chunk_size=arguments.chunk_size,
        )
        stack.enter_context(contextlib.closing(results))
        for number, result in enumerate(results):
            failed |= result.error is not None
            if sys.stdout.isatty():
                progress.clear()
            if table is not None and number == 0:  # Not before, so that a run that is refused prints nothing.
                _write(table.header())
            _write(_result_json(result) if table is None else table.row(result))
            progress.advance()
    return int(failed)


@_notes()
def describe(client: Client, arguments: argparse.Namespace) -> int:
    """Describes one architecture."""
    timeout = _timeout(arguments)
    description = client.describe(arguments.encoding, space=arguments.space, config=_config(arguments), **timeout)
    if arguments.json:
        _write(_json(description))
        return 0
    facts = [
        ("canonical encoding", description.canonical_encoding),
        ("connected", "yes" if description.connected else "no"),
        ("parameters", f"{description.parameters:,}"),
        ("flops", f"{description.flops:,}"),
        ("parameters with residual links", f"{description.parameters_with_residual_links:,}"),
        ("flops with residual links", f"{description.flops_with_residual_links:,}"),
    ]
    columns = ("kind", "in_channels", "out_channels", "kernel", "stride", "groups", "resolution", "weights", "flops")
    layers = [(layer.name, *(getattr(layer, column) for column in columns)) for layer in description.layers]
    _write(format_table(facts))
    _write("\n" + format_table([("layer", *columns), *layers]))
    return 0


@_notes()
def proxies(client: Client, arguments: argparse.Namespace) -> int:
    """Lists the proxies."""
    found = client.proxies(**_timeout(arguments))
    directions = {scoring_pb2.DIRECTION_HIGHER_IS_BETTER: "higher", scoring_pb2.DIRECTION_LOWER_IS_BETTER: "lower"}
    rows = [
        (proxy.name, proxy.version, directions.get(proxy.direction, "?"), _one_line(proxy.description))
        for proxy in found
    ]
    _write_all(arguments, found, [("proxy", "version", "better", "what it measures"), *rows])
    return 0


@_notes()
def spaces(client: Client, arguments: argparse.Namespace) -> int:
    """Lists the search spaces."""
    found = client.spaces(**_timeout(arguments))
    rows = [(space.name, _one_line(space.description), space.example) for space in found]
    _write_all(arguments, found, [("space", "what it is", "example"), *rows])
    return 0


@_notes()
def info(client: Client, arguments: argparse.Namespace) -> int:
    """Says what runs at the server."""
    found = client.server_info(**_timeout(arguments))
    rows: list[tuple[object, ...]] = [
        ("server", client.target),
        ("archscore", found.archscore_version),
        ("torch", found.torch_version),
        ("numpy", found.numpy_version),
    ]
    for device in found.devices:
        rows.append(
            ("device", f"{device.kind} ({device.name}), {device.workers} x {device.threads_per_worker} threads")
        )
    rows.extend(("dataset", dataset.name) for dataset in found.datasets)
    rows.extend((field.name, f"{value:,}") for field, value in found.limits.ListFields())
    _write_all(arguments, [found], rows)
    return 0


def search(client: Client, arguments: argparse.Namespace) -> int:
    """Searches for architectures; 1 if nothing has a score."""
    from archscore.search import _command

    return _command.search(client, arguments)


def _config(arguments: argparse.Namespace) -> Mapping[str, Any] | None:
    if arguments.config is None:
        return None
    try:
        config = json.loads(arguments.config)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"--config is not a JSON object: {arguments.config}")
    return config


def _timeout(arguments: argparse.Namespace) -> dict[str, float]:
    return {} if arguments.timeout is None else {"timeout": arguments.timeout}


def _json(message: Message) -> str:
    """A message on one line."""
    return json_format.MessageToJson(message, indent=None, always_print_fields_with_no_presence=True)


def _result_json(result: Result) -> str:
    message = result.to_message()
    try:
        return _json(message)
    except TypeError:  # An error with a detail of a type that this client is too old to know.
        del message.error.details[:]
        return _json(message)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _write_all(arguments: argparse.Namespace, messages: Iterable[Message], rows: list[tuple[object, ...]]) -> None:
    """Writes messages as lines of JSON, or the rows that stand for them."""
    if arguments.json:
        for message in messages:
            _write(_json(message))
    else:
        _write(format_table(rows))


def _write(text: str) -> None:
    """Writes to stdout at once: somebody may be reading along."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
