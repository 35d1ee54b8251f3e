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
from archscore_server.engine.statistics import STATISTICS, Pass

#: What of a device's memory tensors may take: scratch memory, caches, libraries and fragmentation need the rest.
USABLE_MEMORY = 0.8

#: Of what is followed, for what is not: statistics of channels, masks, labels, sums whose order differs by a tensor.
_RESERVE = 0.05
#: How much more a network takes beside different ones: where not all networks have an operation, those that do are
#: copied together for it.
MIXED_STACK = 1.25
#: Bytes of what does not grow with the network, where that is run, and where only its weights are looked at.
_LEAST, _LEAST_WEIGHTS = 2**14, 2**10

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


def runs_single(architecture: Architecture, config: EvaluationConfig, stack_size: int, device: str) -> bool:
    """Whether a network runs by the kernels for CPUs, where stacks have so many networks at most.

    What counts is how many networks may share its stack, not how many do: the form of a network, and with it the
    rounding of scores, must not depend on what else is asked.
    """
    sharing = stack_size if isinstance(architecture, Cell) else min(stack_size, config.repeats)
    return kernels.serve(sharing, config.precision, device)


def predicted_bytes(
    architecture: Architecture,
    proxies: Sequence[str],
    config: EvaluationConfig,
    *,
    device: str = "cpu",
    stack_size: int = 1,
) -> int:
    """Bytes of tensors that are alive at once, at most, while one network is evaluated.

    On a GPU what one like it leaves there until it is read is among them.

    Args:
        architecture: a connected architecture.
        proxies: names of proxies.
        config: how it is evaluated.
        device: kind of device, "cpu" or "cuda".
        stack_size: networks in a stack, at most, as far as is known: what counts is the form that takes most of those
            that the network may have by that.

    Raises:
        KeyError: a proxy is not known.
        NetworkError: there is no such network.
    """
    needs = _needs(proxies)
    forms = {runs_single(architecture, config, size, device) for size in (1, stack_size)}
    return max(_predicted(cast(Hashable, architecture), needs, config, device, single) for single in forms)


def all_within(
    architectures: Sequence[Architecture],
    proxies: Sequence[str],
    config: EvaluationConfig,
    limit: float,
    *,
    device: str = "cpu",
    stack_size: int = 1,
) -> bool:
    """Whether none of some architectures of one space, each evaluated alone, takes more than so many bytes.

    Arguments as of `predicted_bytes`. Where the largest cells do not, no cell does: then no other is looked at.
    """

    def within(architecture: Architecture) -> bool:
        return predicted_bytes(architecture, proxies, config, device=device, stack_size=stack_size) <= limit

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
    single: bool,
) -> int:
    """How many networks of an architecture, with others of its space beside them, fit into so many bytes.

    `single` is what `runs_single` says: the kernels for CPUs take one at a time. Where the largest cells fit, the
    answer is about those, which is known at once.

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


@lru_cache(maxsize=4096)
def _predicted(architecture: Any, needs: frozenset[str], config: EvaluationConfig, device: str, single: bool) -> int:
    followed = Prediction(architecture, config, device, single=single).run(needs)
    least = _LEAST if any(STATISTICS[need] is not Pass.WEIGHTS for need in needs) else _LEAST_WEIGHTS
    return int(followed * (1 + _RESERVE)) + least
