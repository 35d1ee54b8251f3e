"""Measures how many networks a second are evaluated in stacks of each size, to find the fastest."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

import torch

from archscore.spaces import SPACES, Architecture
from archscore_server.engine import kernels
from archscore_server.engine import proxies as registry
from archscore_server.engine._device import resolved
from archscore_server.engine._launch import usable_bytes
from archscore_server.engine._numerics import check
from archscore_server.engine._pipeline import run_stacks
from archscore_server.engine.config import ConfigError, EvaluationConfig
from archscore_server.engine.datasets import GAUSSIAN
from archscore_server.engine.memory import ArchitectureTooLargeError, fits
from archscore_server.engine.networks import mixes
from archscore_server.engine.stack_sizes import STACKS_A_BATCH, Tuned

#: Sizes that are tried: up to the largest that pays on any device that we know of.
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: Part of the best rate below which larger stacks are not tried any more.
_CLEARLY_SLOWER = 0.75

#: Part of the best rate from which on a smaller stack is as good: it takes less memory, and answers sooner.
_AS_GOOD = 0.98

#: Networks that are timed together at least, so that small stacks are timed for long enough, and on the same networks.
_NETWORKS = 8

#: Draws the networks.
_SEED = 54

#: Networks a second in stacks of a size; None if memory ran out.
Measure = Callable[[int], float | None]

#: Told of each measurement: size, and networks a second, None where memory ran out.
OnMeasured = Callable[[int, float | None], None]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured.

    Attributes:
        per_second: networks a second by stack size, one for each round.
        ended: why no larger stacks were tried.
    """

    per_second: dict[int, list[float]]
    ended: str

    @property
    def result(self) -> Tuned:
        """The fastest stack size; the smallest of those that are as good."""
        typical = {size: median(rates) for size, rates in self.per_second.items()}
        best = max(typical.values())
        return Tuned(min(size for size, rate in typical.items() if rate >= _AS_GOOD * best), typical)


def climb(
    measure: Measure,
    sizes: Sequence[int],
    rounds: int,
    *,
    limit: str = "no larger stacks are tried",
    on_measured: OnMeasured = lambda *_: None,
) -> Tuning:
    """Measures stacks of growing size until they are clearly slower, and then those tried again, taking turns.

    Taking turns, what else the machine does meanwhile hits all sizes alike.

    Args:
        measure: measures a size.
        sizes: those to try, growing.
        rounds: measurements of each.
        limit: why there are no larger sizes.
        on_measured: told of each measurement.

    Raises:
        MemoryError: there is not enough memory for the smallest.
    """

    def measured(size: int) -> float | None:
        rate = measure(size)
        on_measured(size, rate)
        return rate

    found: dict[int, list[float]] = {}
    ended = limit
    for size in sizes:
        rate = measured(size)
        if rate is None:
            ended = f"{size} networks ran out of memory"
            break
        found[size] = [rate]
        best = max(max(rates) for rates in found.values())
        if rate < _CLEARLY_SLOWER * best:
            again = measured(size)  # once may be chance
            found[size] += [again] if again is not None else []
            if max(found[size]) < _CLEARLY_SLOWER * best:
                ended = f"stacks of {size} are clearly slower"
                break
    if not found:
        raise MemoryError("there is not enough memory for a single network")
    order = random.Random(_SEED)  # noqa: S311
    for _ in range(rounds - 1):
        for size in order.sample(list(found), len(found)):
            rate = measured(size)
            found[size] += [rate] if rate is not None else []
    return Tuning(found, ended)


def tune(
    space: str,
    proxies: Sequence[str],
    config: EvaluationConfig,
    device: torch.device | str,
    *,
    sizes: Sequence[int] = SIZES,
    rounds: int = 3,
    on_measured: OnMeasured = lambda *_: None,
) -> Tuning:
    """Measures stacks of a search space on a device, up to what fits into its memory.

    A NAS-Bench-201 stack is different cells; a ZenNAS stack is one genome with different seeds, so that sizes above the
    repeats of a request are never used. Dataset, seed and repeats of the config do not matter.

    Raises:
        KeyError: a proxy is not known.
        ConfigError: the device has not the config's precision.
        ValueError: the proxies need no device.
        ArchitectureTooLargeError: there is not enough memory for a single network, as predicted.
        MemoryError: there is not, as seen.
    """
    device = resolved(device)
    config = replace(config, dataset=GAUSSIAN, dataset_sha256=None, seed=0, repeats=1)
    check(config.precision, device)
    if type(config.network) is not type(SPACES[space].network):
        raise ConfigError("network", f"does not go with search space {space}")
    if not any(registry.get(name).passes for name in proxies):
        raise ValueError(f"{', '.join(proxies)}: these need no device")
    networks = _networks(space)
    available = usable_bytes(device)
    most = min(_fitting(own, proxies, config, available, device.type) for own in networks)
    fitting = [size for size in sizes if size <= most]
    bench = _Bench(networks, proxies, config, device)
    limit = "no larger stacks are tried" if len(fitting) == len(sizes) else f"there is memory for {most} networks"
    return climb(bench.measure, fitting, rounds, limit=limit, on_measured=on_measured)


def _fitting(
    architecture: Architecture, proxies: Sequence[str], config: EvaluationConfig, available: int, device: str
) -> int:
    """How many networks fit; one may, by the kernels for CPUs, where stacks do not."""
    alone = fits(
        architecture, proxies, config, available, device=device, single=kernels.serve(1, config.precision, device)
    )
    try:
        return fits(architecture, proxies, config, available, device=device, single=False)
    except ArchitectureTooLargeError:
        return alone


class _Bench:
    """Times stacks of the same networks."""

    def __init__(
        self, networks: Sequence[Architecture], proxies: Sequence[str], config: EvaluationConfig, device: torch.device
    ) -> None:
        self._networks = networks
        self._proxies = proxies
        self._config = config
        self._device = device
        self._mixes = mixes(networks[0])
        self._warm: set[int] = set()

    def measure(self, size: int) -> float | None:
        """Networks a second in stacks of a size, from encodings to scores; None if memory ran out."""
        if size not in self._warm and not self._run(size, size):
            return None
        self._warm.add(size)
        networks = max(size * STACKS_A_BATCH[self._device.type], _NETWORKS)
        started = time.perf_counter()
        # It ends with scores on the host: nothing is left in the queue of a GPU.
        if not self._run(networks, size):
            return None
        return networks / (time.perf_counter() - started)

    def _run(self, networks: int, size: int) -> bool:
        places = range(networks)
        architectures = [self._networks[place % len(self._networks)] for place in places]
        seeds = [0 if self._mixes else place for place in places]
        stacks = (
            (architectures[start : start + size], seeds[start : start + size]) for start in range(0, networks, size)
        )
        return run_stacks(stacks, self._proxies, self._config, self._device)


def _networks(space: str) -> list[Architecture]:
    """What is measured: a sample of connected architectures, or one whose stacks are of itself alone."""
    example = SPACES[space].parse(SPACES[space].example)
    if not mixes(example):
        return [example]
    rng = random.Random(_SEED)  # noqa: S311
    found: list[Architecture] = []
    while len(found) < _NETWORKS:
        own: Architecture = SPACES[space].sample(rng)
        if own.connected:
            found.append(own)
    return found
