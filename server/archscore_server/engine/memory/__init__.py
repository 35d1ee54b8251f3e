"""Memory known before it is spent: the bytes that evaluating a network takes, predicted from its encoding.

The network is run on a tape that has sizes in place of tensors (`_tape`, `_networks`), pass by pass (`_passes`). What
is counted is tensors: weights, activations, gradients and statistics. Scratch memory inside single operations, the
caches of weights and minibatches (bounded on their own) and the libraries themselves come on top.

Pure Python: the front end predicts, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any, cast

from archscore.spaces import Architecture
from archscore.spaces.nasbench201 import EDGES, Cell
from archscore_server.engine import kernels
from archscore_server.engine import proxies as registry
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.memory._passes import Prediction

#: What of a device's memory tensors may take: scratch memory, caches, libraries and fragmentation need the rest.
USABLE_MEMORY = 0.8

#: Of what is followed, for what is not: statistics of channels, masks, labels, sums whose order differs by a tensor.
_RESERVE = 0.05
#: How much more a network takes beside different ones: where not all networks have an operation, those that do are
#: copied together for it.
MIXED_STACK = 1.25
#: Bytes of what does not grow with the network.
_LEAST = 2**14

#: The cell that takes most work, and of most passes most memory: no other operation keeps as much as a convolution, or
#: has as large a weight.
LARGEST_CELL = Cell(("nor_conv_3x3",) * len(EDGES))
#: One of these takes most memory, whatever the passes: where average pooling keeps its input, that is one map more than
#: the convolutions beside it keep, which have theirs rectified.
LARGEST_CELLS = (LARGEST_CELL, Cell(("nor_conv_3x3",) * 4 + ("avg_pool_3x3", "nor_conv_3x3")))


class ArchitectureTooLargeError(ValueError):
    """A network that does not fit into memory, alone in its stack.

    Attributes:
        needed: bytes that it takes.
        available: bytes that there are.
    """

    def __init__(self, needed: int, available: int) -> None:
        """Says how much is missing."""
        super().__init__(f"the network takes {needed:,} bytes of memory, and {available:,} are available")
        self.needed = needed
        self.available = available

    def __reduce__(self) -> tuple[type[ArchitectureTooLargeError], tuple[int, int]]:
        """Pickles: workers send it to the front end."""
        return type(self), (self.needed, self.available)


def predicted_bytes(
    architecture: Architecture, proxies: Sequence[str], config: EvaluationConfig, *, device: str = "cpu"
) -> int:
    """Bytes of tensors that are alive at once, at most, while one network is evaluated.

    Args:
        architecture: a connected architecture.
        proxies: names of proxies.
        config: how it is evaluated.
        device: kind of device, "cpu" or "cuda".

    Raises:
        KeyError: a proxy is not known.
        NetworkError: there is no such network.
    """
    return _each(architecture, _needs(proxies), config, device, 1)


def all_within(
    architectures: Sequence[Architecture],
    proxies: Sequence[str],
    config: EvaluationConfig,
    limit: float,
    *,
    device: str = "cpu",
) -> bool:
    """Whether none of some architectures of one space, each evaluated alone, takes more than so many bytes.

    Where the largest cells do not, no cell does: then each costs nothing to ask about.
    """
    needs = _needs(proxies)

    def within(architecture: Architecture) -> bool:
        return _each(architecture, needs, config, device, 1) <= limit

    if isinstance(architectures[0], Cell) and all(map(within, LARGEST_CELLS)):
        return True
    return all(map(within, architectures))


def fits(
    architecture: Architecture,
    proxies: Sequence[str],
    config: EvaluationConfig,
    available: int,
    *,
    device: str,
    single: bool = False,
) -> int:
    """How many networks of an architecture, with others of its space beside them, fit into so many bytes.

    Where the largest cells fit, the answer is about those, which is known at once. It is 1, at most, where networks
    run by the kernels for CPUs, which take one at a time.

    Raises:
        ArchitectureTooLargeError: not even one does.
    """
    needs = _needs(proxies)

    def needed(own: Architecture) -> int:
        return _predicted(cast(Hashable, own), needs, config, device, single)

    mixed = MIXED_STACK if isinstance(architecture, Cell) else 1
    most = max(map(needed, LARGEST_CELLS)) if isinstance(architecture, Cell) else None
    if most is None or most > available:
        most = needed(architecture)
        if most > available:
            raise ArchitectureTooLargeError(most, available)
    return 1 if single else max(1, int(available / (most * mixed)))


def _needs(proxies: Sequence[str]) -> frozenset[str]:
    return frozenset(need for name in proxies for need in registry.get(name).needs)


def _each(
    architecture: Architecture, needs: frozenset[str], config: EvaluationConfig, device: str, networks: int
) -> int:
    """Bytes for each of so many networks side by side."""
    single = kernels.serve(networks, config.precision, device)
    return _predicted(cast(Hashable, architecture), needs, config, device, single)


@lru_cache(maxsize=4096)
def _predicted(architecture: Any, needs: frozenset[str], config: EvaluationConfig, device: str, single: bool) -> int:
    return int(Prediction(architecture, config, device, single=single).run(needs) * (1 + _RESERVE)) + _LEAST
