"""The proposals of a search, made as they are asked for, and what is unanswered of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from archscore.search._constraints import Measures
from archscore.search._domain import MAX_TRIES, Domain, NothingFoundError
from archscore.search._record import Record
from archscore.search._strategy import Proposal, Proposer
from archscore.spaces import Architecture, NetworkError

_MAX_SAMPLES: Final = 100
"""Random architectures that are drawn where a strategy finds nothing new: a genome takes 10 ms."""


class State(NamedTuple):
    """Where the proposals of a stage stand. It is replaced whole, so that Ctrl-C finds no half of one.

    Attributes:
        made: proposals so far.
        rng_state: of the random numbers after the last of them.
        rejected: draws that did not keep to the constraints, also in the stages before.
        repeated: draws that had been drawn before, likewise.
    """

    made: int
    rng_state: Sequence[Any]
    rejected: int = 0
    repeated: int = 0

    @classmethod
    def initial(cls, seed: int) -> State:
        """Of a search that has not begun."""
        return cls(0, random.Random(seed).getstate())  # noqa: S311 -- searches are to be repeatable


class Pipeline:
    """The proposals of one stage: an iterable that may be consumed once, at most `lag` ahead of the answers.

    Attributes:
        stage: its number.
        started: evaluations of the search before it.
        total: evaluations of it.
        state: where it stands.
        exhausted: whether it ended early since nothing within the constraints was left.
    """

    def __init__(
        self,
        domain: Domain,
        proposer: Proposer,
        records: Sequence[Record],
        *,
        stage: int,
        started: int,
        total: int,
        lag: int,
        state: State,
        proposed: Sequence[tuple[str, int | None]] = (),
    ) -> None:
        """Starts, or goes on.

        Args:
            domain: what may be proposed.
            proposer: makes proposals; it has been told nothing yet.
            records: all records of the search, which become more as answers come.
            stage: number of the stage.
            started: evaluations before it.
            total: evaluations of it.
            lag: proposal n is made knowing the results of those up to n - lag.
            state: where it stands.
            proposed: encoding and parent of proposals that were made and not answered.
        """
        self.stage = stage
        self.started = started
        self.total = total
        self.state = state
        self.exhausted = False
        self._domain = domain
        self._proposer = proposer
        self._records = records
        self._lag = lag
        self._told = 0
        self._rng = random.Random()  # noqa: S311 -- as above
        version, internal, gauss = state.rng_state
        self._rng.setstate((version, tuple(internal), gauss))
        self._rejected, self._repeated = state.rejected, state.repeated
        self._seen = {record.architecture for record in records[started:]} | {encoding for encoding, _ in proposed}
        self._everything: list[tuple[Architecture, Measures]] | None = None
        self._open: dict[int, tuple[Proposal, Measures]] = {}
        for number, (encoding, parent) in enumerate(proposed, start=self.answered):
            architecture = domain.parse(encoding)
            self._open[number] = Proposal(architecture, parent), domain.measure(architecture)

    @property
    def answered(self) -> int:
        """Proposals of the stage that have a record."""
        return len(self._records) - self.started

    @property
    def proposed(self) -> list[tuple[str, int | None]]:
        """Encoding and parent of the proposals that have none, in order."""
        waiting = (self._open[number][0] for number in range(self.answered, self.state.made))
        return [(proposal.architecture.format(), proposal.parent) for proposal in waiting]

    @property
    def oldest(self) -> tuple[Proposal, Measures]:
        """The first of those, and how large its network is."""
        return self._open[self.answered]

    def forget_answered(self) -> None:
        """To be called after a record was added."""
        self._open.pop(self.answered - 1, None)

    def __iter__(self) -> Iterator[Architecture]:
        """The architectures to evaluate, those that were proposed before first."""
        for number in range(self.answered, self.total):
            if number not in self._open:
                self._tell(number + 1 - self._lag)
                drawn = self._draw(number)
                if drawn is None:
                    self.exhausted = True
                    return
                self._open[number] = drawn
                self.state = State(number + 1, self._rng.getstate(), self._rejected, self._repeated)
            yield self._open[number][0].architecture

    def _tell(self, results: int) -> None:
        """Tells the proposer so many results, in all."""
        if results > self.answered:
            raise RuntimeError(
                f"the scorer asked for architecture {results + self._lag - 1} with {self.answered} results handed "
                f"out: it may be at most {self._lag} ahead"
            )
        for number in range(self._told, results):
            self._proposer.tell(self._records[self.started + number])
        self._told = max(self._told, results)

    def _draw(self, number: int) -> tuple[Proposal, Measures] | None:
        """A proposal that is new and keeps to the constraints; None if there is none left.

        Raises:
            NothingFoundError: none was found in a bounded number of tries.
        """
        for _ in range(MAX_TRIES):
            proposal = self._proposer.propose(number, self._rng)
            measures = self._accept(proposal.architecture)
            if measures is not None:
                return proposal, measures
        for _ in range(_MAX_SAMPLES):
            sample = self._domain.sample(self._rng)
            measures = self._accept(sample)
            if measures is not None:
                return Proposal(sample), measures
        return self._draw_from_everything()

    def _draw_from_everything(self) -> tuple[Proposal, Measures] | None:
        constraints, everything = self._domain.constraints, self._domain.everything()
        if everything is None:
            new = "new " if self._seen else ""
            tries = MAX_TRIES + _MAX_SAMPLES
            raise NothingFoundError(f"no {new}architecture with {constraints} found in {tries:,} tries")
        if self._everything is None:
            measured = ((architecture, self._domain.measure(architecture)) for architecture in everything)
            self._everything = [entry for entry in measured if constraints.excess(entry[1]) <= 1]
        left = [entry for entry in self._everything if entry[0].format() not in self._seen]
        if left:
            architecture, measures = self._rng.choice(left)
            self._seen.add(architecture.format())
            return Proposal(architecture), measures
        if not self._seen:
            raise NothingFoundError(f"no architecture of {self._domain.name} has {constraints}")
        return None

    def _accept(self, architecture: Architecture) -> Measures | None:
        """How large the network of a draw is, if it may be proposed."""
        encoding = architecture.format()
        if encoding in self._seen:
            self._repeated += 1
            return None
        try:
            measures = self._domain.measure(architecture)
        except NetworkError:
            self._rejected += 1
            return None
        if self._domain.constraints.excess(measures) > 1:
            self._rejected += 1
            return None
        self._seen.add(encoding)
        return measures
