"""What a target of the fuzzing has been given and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

#: Violations that are kept: a fault that every input shows need not be shown by every input.
MOST_VIOLATIONS = 20


class ViolationError(AssertionError):
    """Something is not as it must be; the message says what."""


@dataclass
class Tally:
    """What a target was given.

    Attributes:
        target: its name.
        inputs: how many.
        kinds: inputs by how they were made.
        outcomes: inputs by what came of them.
        seconds: how long it took.
        violations: what is not as it must be, each with the input that shows it.
        notes: what else was measured.
    """

    target: str
    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)

    def count(self, kind: str, outcome: str) -> None:
        """Notes an input and what came of it."""
        self.inputs += 1
        self.kinds[kind] += 1
        self.outcomes[outcome] += 1

    def violation(self, text: str) -> None:
        """Notes what is not as it must be."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(text)

    def add(self, other: Tally) -> None:
        """Adds another part of the same target, but for its seconds."""
        self.inputs += other.inputs
        self.kinds.update(other.kinds)
        self.outcomes.update(other.outcomes)
        for text in other.violations:
            self.violation(text)
