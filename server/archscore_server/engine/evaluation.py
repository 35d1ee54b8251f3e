"""Evaluates architectures: plans the passes that the asked proxies need, runs each once, applies the proxies."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from archscore.spaces import Architecture
from archscore_server.engine import _numerics, passes
from archscore_server.engine import proxies as registry
from archscore_server.engine._ahead import Ahead, Networks
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.data import dataset_of
from archscore_server.engine.datasets import Dataset, Datasets
from archscore_server.engine.memory import (
    USABLE_MEMORY,
    ArchitectureTooLargeError,
    fits,
    predicted_bytes,
    runs_single,
)
from archscore_server.engine.minibatches import RECENT
from archscore_server.engine.networks import Stack, build, mixes
from archscore_server.engine.results import Evaluation, Outcome, Score
from archscore_server.engine.stack_sizes import DEFAULTS
from archscore_server.engine.static import evaluate_without_device, static_scores
from archscore_server.engine.statistics import Array
from archscore_server.engine.tables import TABLES

#: What a RuntimeError says that is about memory: of torch's allocator on the CPU, of C++ and of cuBLAS.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")

#: All that oneDNN says when it has no memory for itself. (What it cannot do at all it says of a primitive descriptor.)
_OUT_OF_MEMORY_ONEDNN = ("could not create a primitive", "could not create a memory object")

_logger = logging.getLogger(__name__)


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
    go on. A stack that runs out of memory is evaluated again in halves.

    `on_pass` is called with each pass of a stack that has run, and how many seconds that took.
    """
    config = config or EvaluationConfig()
    device = torch.device(device)
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
    ahead = Ahead(config, dataset, device, needs=_needs(proxies), single=single, ahead=device.type == "cuda")
    stacker = _Stacker(proxies, config, dataset, device, available, most, on_pass, ahead)
    groups = _planned(architectures, sizes, stacker)
    group = next(groups, None)
    while group:
        following = next(groups, None)
        then = ([architectures[index] for index in following.indices], following.size) if following else None
        found = stacker.evaluate([architectures[index] for index in group.indices], group.size, then)
        yield list(zip(group.indices, found, strict=True))
        group = following


class _Stacker:
    """Evaluates networks side by side, as many as there is memory for.

    Attributes:
        limit: networks in a stack, at most. Halved where memory runs out, whatever was predicted.
    """

    def __init__(
        self,
        proxies: Sequence[str],
        config: EvaluationConfig,
        dataset: Dataset | None,
        device: torch.device,
        available: int,
        limit: int,
        on_pass: passes.OnPass | None,
        ahead: Ahead,
    ) -> None:
        self.limit = self._most = limit
        self._ahead = ahead
        self._on_pass = on_pass
        self._proxies = proxies
        self._config = config
        self._dataset = dataset
        self._device = device
        self._available = available

    def evaluate(
        self, architectures: Sequence[Architecture], size: int, then: tuple[Sequence[Architecture], int] | None = None
    ) -> list[Evaluation | ArchitectureTooLargeError]:
        """Evaluates architectures that may share stacks, of `size` networks at most.

        Where there are several, a stack is some of them with one seed, so that they share the minibatch.

        Args:
            architectures: what to evaluate.
            size: networks in a stack, at most.
            then: architectures and size of what comes next.
        """
        rows = self._rows(len(architectures))
        values: list[dict[str, list[float]]] = [{} for _ in architectures]
        too_large: dict[int, ArchitectureTooLargeError] = {}
        for row, next_row in zip(rows, [*rows[1:], []], strict=True):
            left = [(place, seed) for place, seed in row if place not in too_large]
            while left:
                stack, after = left[: min(size, self.limit)], left[min(size, self.limit) :] or next_row
                expected = self._networks(architectures, after, size) if after or then is None else self._first(*then)
                computed = self._try(self._networks(architectures, stack, size), expected)
                if computed is not None:
                    for name, numbers in computed.items():
                        for (place, _), number in zip(stack, numbers, strict=True):
                            values[place].setdefault(name, []).append(float(number))
                    left = left[len(stack) :]
                elif len(stack) > 1:
                    self.limit = (len(stack) + 1) // 2
                    _logger.warning("%d networks ran out of memory: at most %d from now on", len(stack), self.limit)
                else:
                    [(culprit, _)] = stack
                    too_large[culprit] = self._too_large(architectures[culprit])
                    left = [(place, seed) for place, seed in left if place != culprit]
        return [
            too_large.get(place) or self._evaluation(architecture, values[place])
            for place, architecture in enumerate(architectures)
        ]

    def _rows(self, count: int) -> list[list[tuple[int, int]]]:
        """Place and seed of the networks of so many architectures, by what may share a stack."""
        seeds = self._config.seeds
        if count == 1:
            return [[(0, seed) for seed in seeds]]
        return [[(place, seed) for place in range(count)] for seed in seeds]

    def _networks(self, architectures: Sequence[Architecture], row: Sequence[tuple[int, int]], size: int) -> Networks:
        """The first stack of a row."""
        stack = row[: min(size, self.limit)]
        return [architectures[place] for place, _ in stack], [seed for _, seed in stack]

    def _first(self, architectures: Sequence[Architecture], size: int) -> Networks:
        """The first stack of a group."""
        return self._networks(architectures, self._rows(len(architectures))[0], size)

    def _try(self, networks: Networks, expected: Networks) -> dict[str, Array] | None:
        return try_stack(
            *networks,
            self._proxies,
            self._config,
            self._dataset,
            self._device,
            self._on_pass,
            make=lambda: self._ahead.build(*networks, then=expected),
        )

    def _too_large(self, architecture: Architecture) -> ArchitectureTooLargeError:
        available = min(self._available, usable_bytes(self._device))
        predicted = predicted_bytes(
            architecture, self._proxies, self._config, device=self._device.type, stack_size=self._most
        )
        # whatever was predicted, it took more than there was
        return ArchitectureTooLargeError(max(predicted, available + 1), available)

    def _evaluation(self, architecture: Architecture, values: Mapping[str, list[float]]) -> Evaluation:
        scores = static_scores(architecture, self._proxies, self._config)
        scores |= {name: _score(np.array(numbers)) for name, numbers in values.items()}
        return Evaluation({name: scores[name] for name in self._proxies})


@dataclass(frozen=True, slots=True)
class _Group:
    """Architectures that finish together.

    Attributes:
        indices: which.
        size: how large their stacks may be, as predicted.
    """

    indices: list[int]
    size: int


def _planned(architectures: Sequence[Architecture], sizes: Mapping[int, int], stacker: _Stacker) -> Iterator[_Group]:
    """Groups of architectures.

    Args:
        architectures: all of them, of one search space.
        sizes: places of those to evaluate, and how large a stack each allows.
        stacker: what evaluates them; a group is no larger than the stacks that it makes when the group is asked for.
    """
    waiting = list(sizes)
    if waiting and mixes(architectures[waiting[0]]):
        size = min(sizes.values())
        start = 0
        while start < len(waiting):
            group = waiting[start : start + min(size, stacker.limit)]
            start += len(group)
            yield _Group(group, size)
    else:
        for index in waiting:
            yield _Group([index], sizes[index])


def usable_bytes(device: torch.device) -> int:
    """Memory that tensors of an evaluation may take, beside the weights and minibatches that are kept."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(USABLE_MEMORY * (free + unused))
    return int(USABLE_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def try_stack(
    architectures: Sequence[Architecture],
    seeds: Sequence[int],
    proxies: Sequence[str],
    config: EvaluationConfig,
    dataset: Dataset | None,
    device: torch.device,
    on_pass: passes.OnPass | None = None,
    *,
    make: Callable[[], Stack] | None = None,
) -> dict[str, Array] | None:
    """Evaluates connected architectures, each with its seed, side by side.

    The stack is what `make` makes, where that is given.

    The error does not leave this function: its traceback would keep the tensors of the attempt alive.

    Returns:
        Scores by proxy, [A]; None if memory ran out, which is free again then.
    """
    if make is None:
        make = partial(build, architectures, seeds, config, device)
    try:
        return _evaluate_stack(make, proxies, config, dataset, device, on_pass)
    except (MemoryError, RuntimeError) as error:
        if not _ran_out_of_memory(error):
            raise
    gc.collect()  # what cycles still hold of the attempt
    TABLES.clear(device)
    RECENT.clear(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _evaluate_stack(
    make: Callable[[], Stack],
    proxies: Sequence[str],
    config: EvaluationConfig,
    dataset: Dataset | None,
    device: torch.device,
    on_pass: passes.OnPass | None,
) -> dict[str, Array]:
    """Evaluates the networks of a stack; proxy -> [A]."""
    wanted = [own for own in map(registry.get, proxies) if not own.static]
    needs = _needs(proxies)
    with _numerics.arithmetic(config.precision, device):
        statistics = passes.run(make(), needs, config, dataset, on_pass)
    with np.errstate(all="ignore"):  # what is not finite gets an outcome that says so
        return {proxy.name: proxy.compute(*(statistics[need] for need in proxy.needs)) for proxy in wanted}


def _needs(proxies: Sequence[str]) -> list[str]:
    """Names of the statistics that proxies are computed from, each once."""
    return list(dict.fromkeys(need for proxy in map(registry.get, proxies) for need in proxy.needs))


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


def _ran_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    message = str(error)
    return message in _OUT_OF_MEMORY_ONEDNN or any(words in message for words in _OUT_OF_MEMORY)
