"""Random search."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from archscore.search._domain import Domain
from archscore.search._objective import Objective
from archscore.search._record import Record
from archscore.search._strategy import Proposal, Proposer


@dataclass(frozen=True, slots=True)
class RandomSearch:
    """Draws architectures: cells uniformly, genomes by a random walk of 64 mutations within the constraints."""

    name: ClassVar[str] = "random"

    def start(self, domain: Domain, objective: Objective, lag: int) -> Proposer:  # noqa: ARG002 -- of every strategy
        """Begins."""
        return _Proposer(domain)

    def to_json(self) -> dict[str, Any]:
        """Its parameters: none."""
        return asdict(self)


class _Proposer:
    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def propose(self, _number: int, rng: random.Random) -> Proposal:
        return Proposal(self._domain.sample(rng))

    def tell(self, record: Record) -> None:
        """Learns nothing."""
