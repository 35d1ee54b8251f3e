"""What a search strategy is: it proposes architectures, and is told what became of those before.

A strategy is a frozen value, which says how to search; it starts a `Proposer`, which does. Proposals draw from the
search's random numbers; being told does not. So a proposer that was told the same records is the same, and a search
goes on from its log and the state of its random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from archscore.search._domain import Domain
from archscore.search._objective import Objective
from archscore.search._record import Record
from archscore.spaces import Architecture


@dataclass(frozen=True, slots=True)
class Proposal:
    """An architecture to evaluate.

    Attributes:
        architecture: the architecture.
        parent: index of the evaluation whose architecture it was mutated from; None if it was drawn afresh.
    """

    architecture: Architecture
    parent: int | None = None


class Proposer(Protocol):
    """A strategy at work."""

    def propose(self, number: int, rng: random.Random) -> Proposal:
        """An architecture for evaluation `number`. It may be known or outside of the constraints: then it asks again.

        Raises:
            NothingFoundError: there is none.
        """
        ...

    def tell(self, record: Record) -> None:
        """What became of a proposal; in the order of the proposals."""
        ...


class Strategy(Protocol):
    """A way to search.

    Attributes:
        name: as users write it.
    """

    name: ClassVar[str]

    def start(self, domain: Domain, objective: Objective, lag: int) -> Proposer:
        """Begins.

        Args:
            domain: what to draw from.
            objective: what is better.
            lag: evaluation n is proposed when those up to n - lag have been told, and no others.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Its parameters."""
        ...


class Population:
    """Records that a search goes on from, and how good each is among them."""

    def __init__(self, objective: Objective) -> None:
        """Starts empty."""
        self.members: list[Record] = []
        self._objective = objective
        self._fitness: list[float] | None = None

    def __len__(self) -> int:
        """How many members there are."""
        return len(self.members)

    @property
    def fitness(self) -> Sequence[float]:
        """How good each member is among all."""
        if self._fitness is None:
            self._fitness = self._objective.fitness(self.members)
        return self._fitness

    def add(self, record: Record) -> None:
        """Takes one more, as the youngest."""
        self.members.append(record)
        self._fitness = None

    def remove(self, place: int) -> None:
        """Drops the member at a place, 0 being the oldest."""
        del self.members[place]
        self._fitness = None
