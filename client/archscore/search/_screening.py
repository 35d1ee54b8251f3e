"""Successive screening: cheap proxies for many architectures, dear ones for the best of them.

The idea is that of successive halving (Jamieson and Talwalkar, AISTATS 2016), with proxies for budgets.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from archscore.search._domain import Domain
from archscore.search._objective import Objective
from archscore.search._random import RandomSearch
from archscore.search._record import Record
from archscore.search._strategy import Proposal, Proposer


@dataclass(frozen=True, slots=True)
class Screening:
    """Draws architectures and passes the best by each screen on to the next, and at last to the objective.

    Attributes:
        screens: proxies of each stage before the last; the stage ranks by their rank sum if they are several.
        keep: the share of a stage that is passed on, rounded up.
    """

    name: ClassVar[str] = "screening"

    screens: tuple[tuple[str, ...], ...] = (("naswot",),)
    keep: float = 0.1

    def __post_init__(self) -> None:
        """Refuses a screening without screens, and a share that is none, with a ValueError."""
        if not self.screens or not all(self.screens):
            raise ValueError("a screening has at least one screen, of at least one proxy each")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, is {self.keep}")

    def start(self, domain: Domain, objective: Objective, lag: int) -> Proposer:
        """Begins the first stage, which is a random search."""
        return RandomSearch().start(domain, objective, lag)

    def pass_on(self, records: Sequence[Record], objective: Objective) -> list[Record]:
        """The best of a stage, best first; those without a score are never passed on."""
        fitness = objective.fitness(records)
        order = sorted(range(len(records)), key=lambda place: -fitness[place])
        kept = order[: math.ceil(self.keep * len(records))]
        return [records[place] for place in kept if fitness[place] > -math.inf]

    def to_json(self) -> dict[str, Any]:
        """Its parameters."""
        return {**asdict(self), "screens": [list(screen) for screen in self.screens]}


class Chosen:
    """Proposes what was passed on, in order."""

    def __init__(self, domain: Domain, records: Sequence[Record]) -> None:
        """Takes the records of the stage before."""
        self._domain = domain
        self._records = records

    def propose(self, number: int, _rng: random.Random) -> Proposal:
        """The next one."""
        record = self._records[number]
        return Proposal(self._domain.parse(record.architecture), record.index)

    def tell(self, record: Record) -> None:
        """Learns nothing."""
