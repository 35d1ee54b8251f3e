"""Evaluates architectures: plans the passes that the asked proxies need, runs each once, applies the proxies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch

from archscore.spaces import Architecture
from archscore_server.engine import _numerics, passes
from archscore_server.engine import proxies as registry
from archscore_server.engine._device import resolved
from archscore_server.engine._launch import usable_bytes
from archscore_server.engine._pipeline import Group, Pipeline
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.data import dataset_of
from archscore_server.engine.datasets import Datasets
from archscore_server.engine.memory import ArchitectureTooLargeError, fits, runs_single
from archscore_server.engine.networks import mixes
from archscore_server.engine.results import Evaluation
from archscore_server.engine.stack_sizes import DEFAULTS
from archscore_server.engine.static import evaluate_without_device


def evaluate(
    architectures: Sequence[Architecture],
    proxies: Sequence[str],
    config: EvaluationConfig | None = None,
    *,
    data: Datasets | None = None,
    device: torch.device | str = "cpu",
    stack_size: int | None = None,
    available_bytes: int | None = None,
) -> list[Evaluation]:
    """Scores architectures of one search space.

    A score depends on its architecture, proxy and config alone, up to rounding: not on the other architectures, their
    order or the size of the stacks.

    Args:
        architectures: parsed encodings, such as `archscore.spaces.nasbench201.Cell`.
        proxies: names of proxies, see `archscore_server.engine.proxies.names`.
        config: what else scores depend on; None takes the defaults.
        data: where the config's dataset is found, unless that is "gaussian".
        device: where to compute.
        stack_size: networks evaluated side by side, if they fit; None takes what suits the kind of device.
        available_bytes: memory that there is for tensors; None asks the device.

    Returns:
        An evaluation for each architecture, in order, with scores in the order of `proxies`.

    Raises:
        KeyError: a proxy is not known.
        ValueError: no such network exists under this config, or (ConfigError) it does not go with its dataset or the
            device has not its precision.
        DatasetError: the dataset is not there, or broken.
        ArchitectureTooLargeError: a network does not fit into memory even alone. Where that is foreseen the device has
            done nothing yet.
    """
    found: dict[int, Evaluation] = {}
    stacks = evaluate_stacks(
        architectures,
        proxies,
        config,
        data=data,
        device=device,
        stack_size=stack_size,
        available_bytes=available_bytes,
    )
    for stack in stacks:
        for index, result in stack:
            if isinstance(result, ArchitectureTooLargeError):
                raise result
            found[index] = result
    return [found[index] for index in range(len(architectures))]


def evaluate_stacks(
    architectures: Sequence[Architecture],
    proxies: Sequence[str],
    config: EvaluationConfig | None = None,
    *,
    data: Datasets | None = None,
    device: torch.device | str = "cpu",
    stack_size: int | None = None,
    available_bytes: int | None = None,
    on_pass: passes.OnPass | None = None,
) -> Iterator[list[tuple[int, Evaluation | ArchitectureTooLargeError]]]:
    """Like `evaluate`, but yields (index, result) pairs as stacks finish, those that need no device first.

    An architecture whose network does not fit into memory alone has ArchitectureTooLargeError as its result: the others
    go on. A stack that runs out of memory is evaluated again: by itself where another was under way, else in halves.

    A GPU is given the next stack before this one is read: a pair comes when the stack behind it has been queued.

    `on_pass` is called with each pass of a stack that has run, and how many seconds that took.
    """
    config = config or EvaluationConfig()
    device = resolved(device)
    _numerics.check(config.precision, device)
    minibatches = max((registry.get(name).minibatches for name in proxies), default=1)
    dataset = dataset_of(config, data, minibatches)
    waiting: list[int] = []
    answered: list[tuple[int, Evaluation | ArchitectureTooLargeError]] = []
    for index, architecture in enumerate(architectures):
        evaluation = evaluate_without_device(architecture, proxies, config)
        if evaluation:
            answered.append((index, evaluation))
        else:
            waiting.append(index)
    if answered:
        yield answered
    available = usable_bytes(device) if available_bytes is None else available_bytes
    most = stack_size or DEFAULTS[device.type]
    single = any(runs_single(architectures[index], config, most, device.type) for index in waiting[:1])
    fit = partial(fits, proxies=proxies, config=config, available=available, device=device.type, single=single)
    sizes: dict[int, int] = {}
    refused: list[tuple[int, Evaluation | ArchitectureTooLargeError]] = []
    for index in waiting:
        try:
            sizes[index] = fit(architectures[index])
        except ArchitectureTooLargeError as error:
            refused.append((index, error.with_traceback(None)))
    if refused:
        yield refused
    pipeline = Pipeline(
        proxies, config, dataset, device, single=single, limit=most, available=available, on_pass=on_pass
    )
    yield from pipeline.results(_groups(architectures, sizes, pipeline))


def _groups(architectures: Sequence[Architecture], sizes: Mapping[int, int], pipeline: Pipeline) -> Iterator[Group]:
    """Groups of architectures.

    Args:
        architectures: all of them, of one search space.
        sizes: indices of those to evaluate, and how large a stack each allows.
        pipeline: what evaluates them; a group is no larger than the stacks that it makes when the group is asked for.
    """
    waiting = list(sizes)
    if waiting and mixes(architectures[waiting[0]]):
        size = min(sizes.values())
        start = 0
        while start < len(waiting):
            indices = waiting[start : start + min(size, pipeline.limit)]
            start += len(indices)
            yield Group(indices, [architectures[index] for index in indices], size)
    else:
        for index in waiting:
            yield Group([index], [architectures[index]], sizes[index])
