"""The command that measures which stack size is fastest here: `archscore-server tune`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import click
from google.protobuf import json_format

from archscore.spaces import SPACES
from archscore.v1 import scoring_pb2
from archscore_server.config import DeviceChoice, Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import ArchitectureTooLargeError, ConfigError, Datasets, EvaluationConfig, stack_sizes
from archscore_server.engine import proxies as registry
from archscore_server.engine.datasets import GAUSSIAN
from archscore_server.engine.memory import all_within
from archscore_server.engine.stack_sizes import Machine, Workload
from archscore_server.errors import RequestError
from archscore_server.pool import PoolStartError
from archscore_server.pool._allocator import Allocator
from archscore_server.pool._cores import share, usable_cores, variables
from archscore_server.pool._torch_engine import machine, memory_bytes
from archscore_server.pool.probe import probe_gpus
from archscore_server.requests import describe_request

if TYPE_CHECKING:
    from archscore_server.engine.tuning import Tuning

F = TypeVar("F", bound=Callable[..., Any])

_COUNT = click.IntRange(min=1)

#: What servers may have been told to let in.
_LIMITS = Limits(
    max_batch_size=2**16,
    max_resolution=2**12,
    max_num_classes=10_000,
    max_repeats=2**16,
    max_channels=2**12,
    max_cells_per_stage=1_000,
)


class _CannotTune(click.ClickException):
    """Like a wrong option: nothing has been measured."""

    exit_code = 2


def _option(name: str, **attributes: Any) -> Callable[[F], F]:
    """An option with the variable of the server's option of that name, so that both see the same machine."""
    variable = "ARCHSCORE_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, allow_from_autoenv=False, **attributes)


@click.command(context_settings={"show_default": True, "max_content_width": 100, "auto_envvar_prefix": None})
@_option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to measure.")
@_option("--workers", type=_COUNT, show_default="one per GPU; on CPU the best split", help="Workers of the server.")
@_option("--threads", type=_COUNT, show_default="the cores over the workers", help="CPU threads of each worker.")
@_option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="$XDG_CACHE_HOME/archscore or ~/.cache/archscore",
    help="Directory where the result is kept.",
)
@click.option("--space", type=click.Choice(sorted(SPACES)), default="nasbench201", help="Search space.")
@click.option("--proxies", default="tcet", help="Proxies that are asked for together; what counts is their passes.")
@click.option("--config", default="{}", metavar="JSON", help="EvaluationConfig, as for archscore score.")
@click.option("--most", type=click.IntRange(1, 256), default=256, help="Networks in a stack at most.")
@click.option("--rounds", type=_COUNT, default=3, help="Measurements of each size, of which the median counts.")
@click.option(
    "--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Write what was measured there."
)
def tune(
    device: DeviceChoice,
    workers: int | None,
    threads: int | None,
    cache_dir: Path | None,
    space: str,
    proxies: str,
    config: str,
    most: int,
    rounds: int,
    report: Path | None,
) -> None:
    """Measures which stack size is fastest here, prints what it measured and keeps the result.

    Workers that start later evaluate as many networks side by side where everything agrees: device, threads, version of
    torch, search space, passes that the proxies need, and the sizes and precision of the config. Scores do not depend
    on it beyond rounding. Measure on a machine that does nothing else, with the options of the server. Of several GPUs,
    one of each name is measured.

    Exits with 2 when it cannot measure, with 1 when the result cannot be kept.
    """
    names = [name.strip() for name in proxies.split(",")]
    resolved = _resolve(space, names, config)
    directory = cache_dir or stack_sizes.default_directory()
    try:
        gpus = [] if device == "cpu" else asyncio.run(probe_gpus())
    except PoolStartError as error:
        raise _CannotTune(str(error)) from error
    if device == "cuda" and not gpus:
        raise _CannotTune("CUDA is not available: torch sees no GPU")
    _, threads = share(usable_cores(), len(gpus), workers, threads)
    os.environ.update(variables(threads))  # before torch is imported, which is below
    workload = Workload.of(names, resolved)
    found = []
    for place in [f"cuda:{gpus.index(name)}" for name in dict.fromkeys(gpus)] or ["cpu"]:
        own, tuning = _tune(place, threads, space, names, resolved, most, rounds)
        found.append((own, tuning))
        click.echo(_table(own, workload, tuning))
    if report:
        _write(report, workload, found)
    for own, tuning in found:
        _keep(directory, own, workload, tuning)


def _resolve(space: str, proxies: Sequence[str], text: str) -> EvaluationConfig:
    """Checks what is to be measured as a server does."""
    for name in proxies:
        if name not in registry.names():
            raise click.BadParameter(
                f"no proxy {name!r}: known are {', '.join(registry.names())}", param_hint="--proxies"
            )
    try:
        message = json_format.Parse(text, scoring_pb2.EvaluationConfig())
    except json_format.ParseError as error:
        raise click.BadParameter(str(error), param_hint="--config") from error
    if message.HasField("dataset") and message.dataset != GAUSSIAN:
        raise click.BadParameter(
            "the dataset does not matter: give its resolution and numClasses instead", param_hint="--config"
        )
    architecture = scoring_pb2.Architecture(space=space, encoding=SPACES[space].example)
    request = scoring_pb2.DescribeArchitectureRequest(architecture=architecture, config=message)
    try:
        _, config = describe_request(request, _LIMITS, Catalogue(Datasets()))
    except RequestError as error:
        raise click.BadParameter(str(error), param_hint="--config") from error
    return config


def _tune(
    device: str, threads: int, space: str, proxies: Sequence[str], config: EvaluationConfig, most: int, rounds: int
) -> tuple[Machine, Tuning]:
    """Measures on a device, in this process as in a worker."""
    import torch

    from archscore_server.engine import tuning

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    own = machine(device, threads)
    click.echo(f"{own.device_name}, {threads} threads: measuring", err=True)

    def on_measured(size: int, rate: float | None) -> None:
        click.echo(f"  {size} networks: {f'{rate:.3g} a second' if rate else 'out of memory'}", err=True)

    try:
        if device == "cpu":
            example = SPACES[space].parse(SPACES[space].example)
            allocator = Allocator(memory_bytes())
            allocator.suit(large=not all_within([example], proxies, config, allocator.large))
        sizes = [size for size in tuning.SIZES if size <= most]
        found = tuning.tune(space, proxies, config, device, sizes=sizes, rounds=rounds, on_measured=on_measured)
    except (ArchitectureTooLargeError, ConfigError, MemoryError, ValueError) as error:
        raise _CannotTune(str(error)) from error
    return own, found


def _table(own: Machine, workload: Workload, tuning: Tuning) -> str:
    result = tuning.result
    lines = [
        f"{own.device_name} ({own.device_kind}), {own.threads} threads, torch {own.torch_version}",
        f"{workload.space}, {' + '.join(workload.passes)}, batch {workload.batch_size}, "
        f"resolution {workload.resolution}, {workload.precision}, "
        + ", ".join(f"{name} {value}" for name, value in workload.network),
        f"{'stack':>6} {'networks/s':>11} {'least':>9} {'most':>9}",
    ]
    lines += [
        f"{size:>6} {median(rates):>11.4g} {min(rates):>9.4g} {max(rates):>9.4g}"
        + (" <- fastest" if size == result.stack_size else "")
        for size, rates in tuning.per_second.items()
    ]
    return "\n".join([*lines, tuning.ended])


def _write(path: Path, workload: Workload, found: Sequence[tuple[Machine, Tuning]]) -> None:
    content: Mapping[str, Any] = {
        "workload": {**dataclasses.asdict(workload), "network": dict(workload.network)},
        "machines": [
            {
                **dataclasses.asdict(own),
                "stack_size": tuning.result.stack_size,
                "per_second": tuning.per_second,
                "ended": tuning.ended,
            }
            for own, tuning in found
        ],
    }
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise click.FileError(str(path), error.strerror or str(error)) from error


def _keep(directory: Path | None, own: Machine, workload: Workload, tuning: Tuning) -> None:
    if directory is None:
        raise click.ClickException("there is nowhere to keep the result: set --cache-dir")
    try:
        path = stack_sizes.record(directory, own, workload, tuning.result)
    except OSError as error:
        raise click.ClickException(f"the result cannot be kept in {directory}: {error.strerror or error}") from error
    click.echo(f"kept in {path}: workers that start from now on use stacks of {tuning.result.stack_size} for this")
