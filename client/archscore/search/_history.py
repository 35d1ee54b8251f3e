"""What a search has found so far, or at its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archscore.search._objective import Leader, Objective
from archscore.search._record import OK, Record
from archscore.search._settings import Settings


@dataclass(frozen=True, slots=True)
class Ranked:
    """A record and how good it is among all of its stage.

    Attributes:
        record: the record.
        fitness: its score, signed so that more is better, or its rank sum from 0 to 1; minus infinity without a score.
    """

    record: Record
    fitness: float


class History:
    """All evaluations of a search.

    Attributes:
        settings: of the search.
        objectives: of each stage; one for all strategies but screening.
        records: all evaluations, in the order of the proposals.
        rejected: draws that did not keep to the constraints, which are no evaluations.
        repeated: draws that had been drawn before.
        fingerprints: what scores depended on, with the index of the first evaluation that had it: more than one means
            that the server became another one on the way.
        exhausted: whether the search ended early because nothing within the constraints was left.
        seconds: that the search has run.
    """

    def __init__(self, settings: Settings, objectives: Sequence[Objective]) -> None:
        """Starts empty."""
        self.settings = settings
        self.objectives = tuple(objectives)
        self.records: list[Record] = []
        self.rejected = 0
        self.repeated = 0
        self.fingerprints: list[tuple[int, Mapping[str, Any]]] = []
        self.exhausted = False
        self.seconds = 0.0
        self.stage = 0
        self.stage_started = 0
        self.stage_total = settings.evaluations
        self._leader = Leader(self.objectives[0])
        self._outcomes: Counter[str] = Counter()

    @property
    def objective(self) -> Objective:
        """Of the stage that runs, or ran last."""
        return self.objectives[self.stage]

    @property
    def stage_records(self) -> list[Record]:
        """The records of that stage."""
        return self.records[self.stage_started :]

    @property
    def best(self) -> Record | None:
        """The best of that stage so far; None if nothing has a score."""
        return self._leader.best

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many evaluations had which outcome."""
        return self._outcomes

    @property
    def failures(self) -> int:
        """Evaluations that have no score, for whatever reason."""
        return self._outcomes.total() - self._outcomes[OK]

    def add(self, record: Record) -> None:
        """Takes one more."""
        self.records.append(record)
        self._leader.add(record)
        self._outcomes[record.outcome] += 1

    def enter_stage(self, stage: int, started: int, total: int) -> None:
        """A stage begins.

        Args:
            stage: its number, from 0.
            started: evaluations before it.
            total: evaluations of it.
        """
        self.stage, self.stage_started, self.stage_total = stage, started, total
        self._leader = Leader(self.objectives[stage])
        for record in self.stage_records:
            self._leader.add(record)

    def fitness_of_best(self) -> float:
        """How good the best is among all of the stage so far; minus infinity if there is none."""
        best = self.best
        return -math.inf if best is None else self._leader.fitness(best)

    def ranking(self) -> list[Ranked]:
        """The records of the last stage, the best first; the earlier of equals first."""
        records = self.stage_records
        ranked = map(Ranked, records, self.objective.fitness(records))
        return sorted(ranked, key=lambda entry: (-entry.fitness, entry.record.index))
