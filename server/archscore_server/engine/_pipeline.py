"""Groups of architectures become stacks; a GPU computes the next one while the host reads and answers the last."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import torch

from archscore.spaces import Architecture
from archscore_server.engine import passes
from archscore_server.engine._launch import Launched, launch, usable_bytes
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.datasets import Dataset
from archscore_server.engine.memory import ArchitectureTooLargeError, predicted_bytes
from archscore_server.engine.results import Evaluation, Outcome, Score
from archscore_server.engine.static import static_scores
from archscore_server.engine.statistics import Array

#: Stacks that a device has been given, at most, when the host waits for one of them and answers. On a CPU the host
#: computes itself, and to begin another stack would only keep the answers waiting.
BEHIND: Final = {"cpu": 0, "cuda": 1}

Result: TypeAlias = Evaluation | ArchitectureTooLargeError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Group:
    """Architectures that may share stacks, and are answered together.

    Attributes:
        indices: which they are.
        architectures: the architecture of each.
        size: networks in a stack, at most, as predicted.
    """

    indices: Sequence[int]
    architectures: Sequence[Architecture]
    size: int


class _Network(NamedTuple):
    """A network of a group: the place of its architecture there, and its seed."""

    place: int
    seed: int


@dataclass(slots=True)
class _Progress:
    """How far a group is.

    Attributes:
        group: the group.
        values: for each architecture the scores of its seeds so far, by proxy.
        too_large: places of architectures that memory ran out for, and the error of each.
        running: stacks that have been launched and not been read.
        launched: whether no further stack comes.
        answered: whether the answers have been given.
    """

    group: Group
    values: list[dict[str, list[float]]]
    too_large: dict[int, ArchitectureTooLargeError] = field(default_factory=dict)
    running: int = 0
    launched: bool = False
    answered: bool = False


class Pipeline:
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
        *,
        single: bool,
        limit: int,
        available: int,
        on_pass: passes.OnPass | None,
    ) -> None:
        """Nothing runs yet.

        Args:
            proxies: names of proxies.
            config: how networks are evaluated.
            dataset: where minibatches are from; None for "gaussian".
            device: where stacks run.
            single: whether networks run one by one by the kernels for CPUs.
            limit: networks in a stack, at most.
            available: bytes of memory that there are, for what an error says.
            on_pass: called with each pass that has run and its seconds.
        """
        self.limit = self._most = limit
        self._proxies = proxies
        self._config = config
        self._dataset = dataset
        self._device = device
        self._single = single
        self._available = available
        self._on_pass = on_pass
        self._under_way: deque[tuple[_Progress, list[_Network], Launched]] = deque()

    def results(self, groups: Iterator[Group]) -> Iterator[list[tuple[int, Result]]]:
        """Yields (index, result) pairs, group by group as each is done."""
        for group in groups:
            progress = _Progress(group, [{} for _ in group.indices])
            *rows, last = self._rows(len(group.indices))
            for row in rows:
                yield from self._launch_row(progress, row)
            yield from self._launch_row(progress, last, last=True)
            yield from self._answers(progress)
        yield from self._finish(0)

    def _rows(self, count: int) -> list[list[_Network]]:
        """The networks of so many architectures, by what may share a stack.

        Where there are several, a stack is some of them with one seed, so that they share the minibatch.
        """
        seeds = self._config.seeds
        if count == 1:
            return [[_Network(0, seed) for seed in seeds]]
        return [[_Network(place, seed) for place in range(count)] for seed in seeds]

    def _launch_row(
        self, progress: _Progress, row: Sequence[_Network], *, last: bool = False
    ) -> Iterator[list[tuple[int, Result]]]:
        """Launches all networks of a row, the last one of its group or not; meanwhile yields what gets done."""
        group = progress.group
        left = [own for own in row if own.place not in progress.too_large]
        while left:
            networks = left[: min(group.size, self.limit)]
            try:
                launched = self._launch(group, networks)
            except Exception:
                yield from self._finish(0)  # what has been computed is not lost
                raise
            if launched is not None:
                self._under_way.append((progress, networks, launched))
                progress.running += 1
                left = left[len(networks) :]
                progress.launched |= last and not left
                yield from self._finish(BEHIND[self._device.type])
            elif self._under_way:  # the memory may have been theirs
                yield from self._finish(0)
            else:
                self._ran_out(progress, networks)
                left = [own for own in left if own.place not in progress.too_large]
        progress.launched |= last

    def _ran_out(self, progress: _Progress, networks: Sequence[_Network]) -> None:
        """Memory ran out for a stack that was alone on the device: it is to be halved, or one network is too large."""
        if len(networks) > 1:
            self.limit = min(self.limit, (len(networks) + 1) // 2)
            _logger.warning("%d networks ran out of memory: at most %d from now on", len(networks), self.limit)
        else:
            [culprit] = networks
            progress.too_large[culprit.place] = self._too_large(progress.group.architectures[culprit.place])

    def _launch(self, group: Group, networks: Sequence[_Network]) -> Launched | None:
        architectures = [group.architectures[own.place] for own in networks]
        seeds = [own.seed for own in networks]
        return launch(
            architectures, seeds, self._proxies, self._config, self._dataset, self._device, single=self._single
        )

    def _finish(self, behind: int) -> Iterator[list[tuple[int, Result]]]:
        """Waits for stacks until no more than so many are under way."""
        while len(self._under_way) > behind:
            progress, networks, launched = self._under_way.popleft()
            progress.running -= 1
            try:
                scores = launched.scores(self._on_pass)
            except Exception:
                yield from self._finish(0)  # what else has been computed is not lost
                raise
            if scores is None:  # memory ran out when all had been computed but some last numbers
                yield from self._again(progress, networks)
                continue
            for name, numbers in scores.items():
                for own, number in zip(networks, numbers, strict=True):
                    progress.values[own.place].setdefault(name, []).append(float(number))
            yield from self._answers(progress)

    def _again(self, progress: _Progress, networks: Sequence[_Network]) -> Iterator[list[tuple[int, Result]]]:
        """Evaluates a stack again, in halves."""
        progress.running += 1  # not done before this is
        yield from self._finish(0)
        self._ran_out(progress, networks)
        yield from self._launch_row(progress, networks)
        progress.running -= 1
        yield from self._answers(progress)

    def _answers(self, progress: _Progress) -> Iterator[list[tuple[int, Result]]]:
        """The answers of a group, once, when all of it is done."""
        if not progress.launched or progress.running or progress.answered:
            return
        progress.answered = True
        group = progress.group
        yield [
            (index, progress.too_large.get(place) or self._evaluation(architecture, progress.values[place]))
            for place, (index, architecture) in enumerate(zip(group.indices, group.architectures, strict=True))
        ]

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


def run_stacks(
    stacks: Iterable[tuple[Sequence[Architecture], Sequence[int]]],
    proxies: Sequence[str],
    config: EvaluationConfig,
    device: torch.device,
) -> bool:
    """Runs stacks as evaluations do, one behind the other, to measure how long that takes.

    Args:
        stacks: connected architectures, and the seed of each.
        proxies: names of proxies.
        config: how they are evaluated; its dataset is "gaussian".
        device: where they run.

    Returns:
        Whether there was memory for all.
    """
    under_way: deque[Launched] = deque()
    fits = True
    for architectures, seeds in stacks:
        launched = launch(architectures, seeds, proxies, config, None, device)
        if launched is None:
            fits = False
            break
        under_way.append(launched)
        if len(under_way) > BEHIND[device.type]:
            fits &= under_way.popleft().scores() is not None
    for launched in under_way:  # or what is measured next would wait for it
        fits &= launched.scores() is not None
    return fits


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
