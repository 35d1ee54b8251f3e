"""A search space as a search sees it: what to draw from, under constraints, and how large it is.

Networks are measured for one resolution and number of classes, and always with their residual links, which is what
budgets and published figures count.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from archscore.errors import UsageError
from archscore.search._constraints import Constraints, Measures
from archscore.spaces import SPACES, Architecture, NetworkError, nasbench201, zennas

if TYPE_CHECKING:
    from archscore.v1 import scoring_pb2

WALK_STEPS: Final = 64
"""Mutations that lead to a random genome, as in `archscore.spaces.zennas.sample`."""

MAX_TRIES: Final = 1000
"""Draws after which nothing new within the constraints is taken to be near."""

_CIFAR: Final = (32, 10)
_DATASETS: Final = {
    "": _CIFAR,
    "gaussian": _CIFAR,
    "cifar10": _CIFAR,
    "cifar100": (32, 100),
    "imagenet16-120": (16, 120),
}
"""Resolution and number of classes that a config has by its dataset."""


class NothingFoundError(UsageError):
    """No architecture within the constraints was found."""


class Domain(Protocol):
    """A search space under constraints.

    Attributes:
        name: of the search space.
        constraints: what may be asked for.
    """

    name: str
    constraints: Constraints

    def parse(self, encoding: str) -> Architecture:
        """The architecture of a canonical encoding."""
        ...

    def measure(self, architecture: Any) -> Measures:
        """How large an architecture is.

        Raises:
            NetworkError: it has no network of this resolution.
        """
        ...

    def start(self, rng: random.Random) -> Architecture:
        """An architecture of the first generation of an elimination search."""
        ...

    def sample(self, rng: random.Random) -> Architecture:
        """A random architecture, which may be outside of the constraints.

        Raises:
            NothingFoundError: none within them is to be found.
        """
        ...

    def everything(self) -> Iterator[Architecture] | None:
        """All architectures of the space, where they can be listed."""
        ...


def domain_of(space: str, constraints: Constraints, config: scoring_pb2.EvaluationConfig | None) -> Domain:
    """A search space under constraints.

    Args:
        space: its name.
        constraints: what may be asked for.
        config: how architectures are evaluated, which says how large networks are.

    Raises:
        UsageError: there is no such search space, a constraint does not go with it, or the config does not say how
            large networks are.
    """
    if space not in SPACES:
        raise UsageError(f"unknown search space {space!r}: known are {', '.join(sorted(SPACES))}")
    resolution, num_classes = _image(config)
    if space == zennas.SPACE.name:
        return Genomes(constraints, resolution, num_classes)
    network = nasbench201.SPACE.network
    if config is not None and config.HasField("nasbench201"):
        given = {descriptor.name: value for descriptor, value in config.nasbench201.ListFields()}
        try:
            network = nasbench201.NetworkConfig(
                channels=given.get("channels", network.channels),
                cells_per_stage=given.get("cells_per_stage", network.cells_per_stage),
            )
        except ValueError as error:
            raise UsageError(f"config.nasbench201: {error}") from None
    return Cells(constraints, network, resolution, num_classes)


def _image(config: scoring_pb2.EvaluationConfig | None) -> tuple[int, int]:
    """Resolution and number of classes of a config."""
    if config is None:
        return _CIFAR
    resolution, num_classes = _DATASETS.get(config.dataset, (0, 0))
    resolution = config.resolution if config.HasField("resolution") else resolution
    num_classes = config.num_classes if config.HasField("num_classes") else num_classes
    if not resolution or not num_classes:
        raise UsageError(
            f"config: dataset {config.dataset!r} needs its resolution and num_classes beside it, to know how large "
            "networks are"
        )
    return resolution, num_classes


class Cells:
    """NAS-Bench-201."""

    name = nasbench201.SPACE.name

    def __init__(
        self, constraints: Constraints, network: nasbench201.NetworkConfig, resolution: int, num_classes: int
    ) -> None:
        """Takes what the networks around the cells are like.

        Raises:
            UsageError: sub-layers are limited, which cells do not have, or there are no such networks.
        """
        if constraints.max_sub_layers is not None:
            raise UsageError(f"max_sub_layers does not go with search space {self.name}")
        self.constraints = constraints
        self._network = network
        self._resolution = resolution
        self._num_classes = num_classes
        _check(self, nasbench201.parse(nasbench201.SPACE.example))

    def parse(self, encoding: str) -> nasbench201.Cell:
        """The cell of an encoding."""
        return nasbench201.parse(encoding)

    def measure(self, architecture: nasbench201.Cell) -> Measures:
        """How large the network of a cell is."""
        size = architecture.size(self._network, resolution=self._resolution, num_classes=self._num_classes)
        return Measures(size.parameters, size.flops, size.layers)

    def start(self, rng: random.Random) -> nasbench201.Cell:
        """A random cell."""
        return self.sample(rng)

    def sample(self, rng: random.Random) -> nasbench201.Cell:
        """A cell drawn uniformly from all."""
        return nasbench201.sample(rng)

    def everything(self) -> Iterator[nasbench201.Cell]:
        """All cells."""
        return nasbench201.cells()


class Genomes:
    """ZenNAS."""

    name = zennas.SPACE.name

    def __init__(self, constraints: Constraints, resolution: int, num_classes: int) -> None:
        """Takes what enters and leaves the networks.

        Raises:
            UsageError: the genome that searches start from has no such network.
        """
        self.constraints = constraints
        self._resolution = resolution
        self._num_classes = num_classes
        self._start_excess = constraints.excess(_check(self, zennas.START))

    def parse(self, encoding: str) -> zennas.Genome:
        """The genome of an encoding."""
        return zennas.parse(encoding)

    def measure(self, architecture: zennas.Genome) -> Measures:
        """How large the network of a genome is, with its residual links."""
        size = architecture.size(_WITH_LINKS, resolution=self._resolution, num_classes=self._num_classes)
        return Measures(size.parameters, size.flops, size.layers, architecture.sub_layers)

    def start(self, rng: random.Random) -> zennas.Genome:
        """The start of the published search with one replacement."""
        return zennas.START.mutate(rng)

    def sample(self, rng: random.Random) -> zennas.Genome:
        """Where the start is after 64 mutations that each kept to the constraints.

        Where the start itself does not, mutations that lead no farther away count as well.

        Raises:
            NothingFoundError: no mutation does.
        """
        genome, excess = zennas.START, self._start_excess
        for _ in range(WALK_STEPS):
            bound = max(1.0, excess)
            for _ in range(MAX_TRIES):
                mutant = genome.mutate(rng)
                excess = self.constraints.excess(self.measure(mutant))
                if excess <= bound:
                    break
            else:
                raise NothingFoundError(f"no genome with {self.constraints} found in {MAX_TRIES} tries")
            genome = mutant
        return genome

    def everything(self) -> None:
        """They cannot be listed."""
        return


_WITH_LINKS: Final = zennas.NetworkConfig(residual_links=True)


def _check(domain: Domain, architecture: Architecture) -> Measures:
    try:
        return domain.measure(architecture)
    except NetworkError as error:
        raise UsageError(f"config: {error}") from None
