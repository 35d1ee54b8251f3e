"""Evaluates architectures: plans the passes that the asked proxies need, runs each once, applies the proxies."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from archscore.spaces import Architecture
from archscore_server.engine import passes
from archscore_server.engine import proxies as registry
from archscore_server.engine._numerics import ieee_float32
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.data import dataset_of
from archscore_server.engine.datasets import Dataset, Datasets
from archscore_server.engine.memory import USABLE_MEMORY, fits
from archscore_server.engine.networks import build, mixes
from archscore_server.engine.results import Evaluation, Outcome, Score
from archscore_server.engine.static import evaluate_without_device, static_scores
from archscore_server.engine.statistics import Array

#: Networks in a stack by kind of device. On a CPU the cache decides; on a GPU a network is thousands of small launches.
_STACK_SIZES = {"cpu": 1, "cuda": 32}


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
        stack_size: networks evaluated side by side, if they fit; None takes what suits the device.
        available_bytes: memory that there is for tensors; None asks the device.

    Returns:
        An evaluation for each architecture, in order, with scores in the order of `proxies`.

    Raises:
        KeyError: a proxy is not known.
        ValueError: no such network exists under this config, or (ConfigError) it does not go with its dataset.
        DatasetError: the dataset is not there, or broken.
        ArchitectureTooLargeError: a network does not fit into memory even alone. The device has done nothing yet.
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
        found.update(stack)
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
) -> Iterator[list[tuple[int, Evaluation]]]:
    """Like `evaluate`, but yields (index, evaluation) pairs as each stack finishes, those that need no device first."""
    config = config or EvaluationConfig()
    device = torch.device(device)
    minibatches = max((registry.get(name).minibatches for name in proxies), default=1)
    dataset = dataset_of(config, data, minibatches)
    waiting: list[int] = []
    answered: list[tuple[int, Evaluation]] = []
    for index, architecture in enumerate(architectures):
        evaluation = evaluate_without_device(architecture, proxies, config)
        if evaluation:
            answered.append((index, evaluation))
        else:
            waiting.append(index)
    if answered:
        yield answered
    available = _available_bytes(device) if available_bytes is None else available_bytes
    most = stack_size or _STACK_SIZES[device.type]
    fit = partial(fits, proxies=proxies, config=config, available=available, device=device.type)
    sizes = {index: min(most, fit(architectures[index])) for index in waiting}
    for indices, stacks in _planned(architectures, waiting, config.seeds, sizes):
        values: dict[int, dict[str, list[float]]] = {index: defaultdict(list) for index in indices}
        for members in stacks:
            own = [architectures[index] for index, _ in members]
            computed = _evaluate_stack(own, [seed for _, seed in members], proxies, config, dataset, device)
            for name, numbers in computed.items():
                for (index, _), number in zip(members, numbers, strict=True):
                    values[index][name].append(float(number))
        finished = []
        for index in indices:
            scores = static_scores(architectures[index], proxies, config)
            scores |= {name: _score(np.array(numbers)) for name, numbers in values[index].items()}
            finished.append((index, Evaluation({name: scores[name] for name in proxies})))
        yield finished


def _planned(
    architectures: Sequence[Architecture], waiting: Sequence[int], seeds: Sequence[int], sizes: Mapping[int, int]
) -> Iterator[tuple[Sequence[int], list[list[tuple[int, int]]]]]:
    """Groups of architectures that finish together, and their stacks as (architecture, seed) of each network.

    Where networks of different architectures stack, a stack is some architectures with one seed, so that they share
    the minibatch; else it is one architecture with some seeds. `sizes` says how large a stack an architecture allows.
    """
    if waiting and mixes(architectures[waiting[0]]):
        size = min(sizes.values())
        for start in range(0, len(waiting), size):
            indices = waiting[start : start + size]
            yield indices, [[(index, seed) for index in indices] for seed in seeds]
    else:
        for index in waiting:
            members, size = [(index, seed) for seed in seeds], sizes[index]
            yield [index], [members[start : start + size] for start in range(0, len(members), size)]


def _available_bytes(device: torch.device) -> int:
    """Memory that tensors of an evaluation may take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(USABLE_MEMORY * (free + unused))
    return int(USABLE_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _evaluate_stack(
    architectures: Sequence[Architecture],
    seeds: Sequence[int],
    proxies: Sequence[str],
    config: EvaluationConfig,
    dataset: Dataset | None,
    device: torch.device,
) -> dict[str, Array]:
    """Evaluates connected architectures, each with its seed, side by side; proxy -> [A]."""
    wanted = [own for own in map(registry.get, proxies) if not own.static]
    needs = list(dict.fromkeys(need for proxy in wanted for need in proxy.needs))
    with ieee_float32(device):
        statistics = passes.run(build(architectures, seeds, config, device), needs, config, dataset)
    with np.errstate(all="ignore"):  # what is not finite gets an outcome that says so
        return {proxy.name: proxy.compute(*(statistics[need] for need in proxy.needs)) for proxy in wanted}


def _score(values: Array) -> Score:
    """Mean and standard error over repeats, [repeats]."""
    if not np.isfinite(values).all():
        return Score(Outcome.NON_FINITE)
    with np.errstate(all="ignore"):
        mean = float(values.mean())
        error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    if not np.isfinite(mean):
        return Score(Outcome.NON_FINITE)
    return Score(Outcome.OK, mean, error)
